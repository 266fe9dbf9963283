"""All tokenizers: the layout of rows, invalid texts, and use in processes and threads."""

import multiprocessing
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from tokenizer_json import AWKWARD, TEXTS, bpe_json

from clipvip_jax.input_pipeline.clip_tokenizer import ClipTokenizer
from clipvip_jax.input_pipeline.json_tokenizer import JsonTokenizer
from clipvip_jax.input_pipeline.word_tokenizer import WordTokenizer
from clipvip_jax.utils.errors import UserError


@pytest.fixture(scope="module")
def tokenizers():
  return {
    "clip": ClipTokenizer(),
    "word": WordTokenizer.train(TEXTS, 64),
    "json": JsonTokenizer(bpe_json()),
  }


@pytest.fixture(params=["clip", "word", "json"])
def tokenizer(request, tokenizers):
  return tokenizers[request.param]


@pytest.mark.parametrize("length", [2, 3, 8, 70])
def test_every_row_is_start_text_end_zeros(tokenizer, length):
  """In particular, each row has the end id, its largest, exactly once: the text tower pools there."""
  tokens = tokenizer(TEXTS + AWKWARD, length)
  assert tokens.shape == (len(TEXTS + AWKWARD), length) and tokens.dtype == np.int32
  assert tokenizer.end_id == tokenizer.vocab_size - 1
  for row in tokens:
    end = row.argmax()
    assert row[0] == tokenizer.start_id and row[end] == tokenizer.end_id
    assert (row == tokenizer.start_id).sum() == 1 and (row == tokenizer.end_id).sum() == 1
    assert (row[end:] == tokenizer.end_id).sum() == 1 and not row[end + 1 :].any()
  assert (tokens[len(TEXTS), 1] == tokenizer.end_id) and tokens[-2, -1] == tokenizer.end_id


def test_truncation_keeps_the_first_tokens(tokenizer):
  full, truncated = tokenizer(TEXTS, 40), tokenizer(TEXTS, 5)
  np.testing.assert_array_equal(truncated[:, :4], full[:, :4])
  assert (truncated[:, 4] == tokenizer.end_id).all()


def test_special_tokens_inside_a_text_are_plain_text(tokenizer):
  start, spelled = tokenizer(["", "a <|endoftext|> b"], 40)
  assert start.argmax() == 1 and spelled.argmax() > 3
  assert spelled[spelled.argmax() - 1] == tokenizer(["b"], 3)[0, 1]  # the text after the special token is kept


def test_no_texts_give_no_rows(tokenizer):
  assert tokenizer([], 8).shape == (0, 8)


def test_tokenizers_pickle(tokenizer):
  copy = pickle.loads(pickle.dumps(tokenizer))
  assert type(copy) is type(tokenizer)
  np.testing.assert_array_equal(copy(TEXTS + AWKWARD, 20), tokenizer(TEXTS + AWKWARD, 20))


def test_tokenizers_work_in_a_spawned_process(tokenizers):
  with multiprocessing.get_context("spawn").Pool(1) as pool:
    for tokenizer in tokenizers.values():
      np.testing.assert_array_equal(pool.apply(tokenizer, (TEXTS, 12)), tokenizer(TEXTS, 12))


def test_tokenizers_work_in_threads_and_forked_processes():
  """Without the warning of the package that its own threads do not survive a fork."""
  program = """
import concurrent.futures, multiprocessing
from clipvip_jax.input_pipeline.clip_tokenizer import ClipTokenizer
from clipvip_jax.input_pipeline.word_tokenizer import WordTokenizer
texts = [f"caf\u00e9 {i} dogs run" for i in range(200)]
for tokenizer in (ClipTokenizer(), WordTokenizer.train(texts, 64)):
  expected = tokenizer(texts, 12)
  with concurrent.futures.ThreadPoolExecutor(4) as pool:
    assert all((tokens == expected).all() for tokens in pool.map(tokenizer, [texts] * 8, [12] * 8))
  with multiprocessing.get_context("fork").Pool(2) as pool:
    assert all((tokens == expected).all() for tokens in pool.starmap(tokenizer, [(texts, 12)] * 4))
"""
  environment = {name: value for name, value in os.environ.items() if name != "TOKENIZERS_PARALLELISM"}
  result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, env=environment)
  assert (result.returncode, result.stderr) == (0, "")


def test_invalid_input_is_rejected(tokenizer):
  with pytest.raises(UserError, match="cannot truncate texts to 1 tokens; use at least 2"):
    tokenizer(["a"], 1)
  with pytest.raises(UserError, match="got the single text 'a cat'; put it into a list"):
    tokenizer("a cat", 8)
  with pytest.raises(UserError, match="text 1 is NoneType, not a string: None; remove"):
    tokenizer(["a", None], 8)
  with pytest.raises(UserError, match=r"text 1 is not valid Unicode: 'b \\ud83d'; correct the annotations"):
    tokenizer(["a", "b \ud83d"], 8)
