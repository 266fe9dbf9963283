"""Tokenizers of a tokenizer.json: hostile and unsuitable content, saving, and digests."""

import json
import pickle

import numpy as np
import pytest
from tokenizer_json import TEXTS, bpe_json, word_json

from clipvip_jax.input_pipeline.json_tokenizer import JsonTokenizer
from clipvip_jax.input_pipeline.load_tokenizer import load_tokenizer
from clipvip_jax.input_pipeline.word_tokenizer import WordTokenizer
from clipvip_jax.utils.errors import UserError


def test_special_tokens_kept_by_the_pre_tokenizer_are_removed():
  content = word_json(32)
  content["pre_tokenizer"] = {"type": "WhitespaceSplit"}
  tokenizer = JsonTokenizer(json.dumps(content))
  np.testing.assert_array_equal(*(tokenizer([text], 8) for text in ("a <|endoftext|> man <|startoftext|>", "a man")))


def with_pattern(pattern):
  """A tokenizer.json that splits texts by a regular expression."""
  from tokenizers import Regex, pre_tokenizers

  content = json.loads(bpe_json())
  split = pre_tokenizers.Split(Regex("x"), "isolated").__getstate__()
  content["pre_tokenizer"] = json.loads(split) | {"pattern": {"Regex": pattern}}
  return json.dumps(content)


def test_a_pattern_that_may_take_exponential_time_is_refused():
  with pytest.raises(UserError, match=r"t\.json has the pattern .*nested repetitions may take exponential time"):
    JsonTokenizer(with_pattern("(a+)+$"), "t.json")


def test_the_pattern_of_a_published_tokenizer_is_accepted():
  pattern = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
  assert JsonTokenizer(with_pattern(pattern))(["a cat"], 8).shape == (1, 8)


def test_a_panic_of_the_package_is_an_error_that_names_the_text():
  # The regular expression engine gives up on this pattern, on which the package panics; that is no Exception.
  tokenizer = JsonTokenizer(with_pattern("(a{1,30}){1,30}$"))
  with pytest.raises(UserError, match=r"tokenizer\.json cannot encode the text 'aaa.*; use another"):
    tokenizer(["a" * 40 + "!"], 8)


def test_start_and_end_with_one_id_are_refused():
  last = json.loads(bpe_json())["model"]["vocab"]["<|endoftext|>"]
  content = json.loads(bpe_json())
  content["model"]["vocab"]["<|startoftext|>"] = last
  content["added_tokens"] = []
  with pytest.raises(UserError, match=r"<\|startoftext\|> and <\|endoftext\|> have the same id"):
    JsonTokenizer(json.dumps(content))


def test_a_failed_save_leaves_no_files(tmp_path):
  (tmp_path / "file").write_text("x")
  (tmp_path / "folder").mkdir()
  for path in (tmp_path / "file" / "tokenizer.json", tmp_path / "folder"):
    with pytest.raises(UserError, match=r"tokenizer .* cannot be written \(.*\); choose another path"):
      WordTokenizer.train(TEXTS, 16).save(path)
  assert sorted(file.name for file in tmp_path.iterdir()) == ["file", "folder"]


def test_the_digest_survives_a_round_trip_and_differs_for_other_ids(tmp_path):
  tokenizer = WordTokenizer.train(["a b c"], 10)
  tokenizer.save(tmp_path / "tokenizer.json")
  assert load_tokenizer(tmp_path / "tokenizer.json").digest == pickle.loads(pickle.dumps(tokenizer)).digest
  assert load_tokenizer(tmp_path / "tokenizer.json").digest == tokenizer.digest
  content = json.loads((tmp_path / "tokenizer.json").read_text())
  vocabulary = content["model"]["vocab"]
  vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
  (tmp_path / "permuted.json").write_text(json.dumps(content))
  digests = {load_tokenizer(tmp_path / "permuted.json").digest, WordTokenizer.train(["a b d"], 10).digest}
  assert len(digests | {tokenizer.digest, load_tokenizer("clip").digest}) == 4
