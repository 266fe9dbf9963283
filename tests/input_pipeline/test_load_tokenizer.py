"""Loading a tokenizer: by name, from a file, and from unsuitable files."""

import gzip
import json

import numpy as np
import pytest
from tokenizer_json import AWKWARD, TEXTS, bpe_json, word_json

from clipvip_jax.input_pipeline.clip_tokenizer import ClipTokenizer
from clipvip_jax.input_pipeline.load_tokenizer import load_tokenizer
from clipvip_jax.input_pipeline.word_tokenizer import WordTokenizer
from clipvip_jax.utils.errors import UserError


def test_a_saved_tokenizer_loads_again(tmp_path, capfd):
  words, path = WordTokenizer.train(TEXTS, 64), tmp_path / "new" / "tokenizer.json"
  words.save(path)
  words.save(path)
  assert [file.name for file in path.parent.iterdir()] == ["tokenizer.json"]
  for source in (path, str(path)):
    loaded = load_tokenizer(source)
    assert (loaded.vocab_size, loaded.start_id, loaded.end_id) == (64, 62, 63)
    np.testing.assert_array_equal(loaded(TEXTS + AWKWARD, 20), words(TEXTS + AWKWARD, 20))
  assert capfd.readouterr().err == ""  # the package warns of vocabularies with holes


def test_loads_clip_by_name():
  assert isinstance(load_tokenizer("clip"), ClipTokenizer)


def test_loads_clips_tokenizer_json(tmp_path):
  """Ignores the file's truncation and padding to 5 tokens and its post-processor."""
  path = tmp_path / "tokenizer.json"
  path.write_text(bpe_json(), encoding="utf-8")
  loaded = load_tokenizer(path)
  content = json.loads(path.read_text(encoding="utf-8"))["model"]["vocab"]
  cat, s = content["cat</w>"], content["s</w>"]
  row = [loaded.start_id, cat, *[cat] * 5, s, loaded.end_id, 0]
  np.testing.assert_array_equal(loaded(["Cat  cat cat cat cat cat s"], 10), [row])


def unsuitable():
  words = word_json(32)
  no_end, not_last, no_unknown = (json.loads(json.dumps(words)) for _ in range(3))
  del no_end["model"]["vocab"]["<|endoftext|>"]
  not_last["model"]["vocab"]["more"] = 32
  del no_unknown["model"]["vocab"]["<|unknown|>"]
  return {
    "empty": (b"", "is not a valid tokenizer.json"),
    "web page": (b"<!DOCTYPE html><html></html>", "is a web page; download the file itself"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer, .*; run `git lfs pull`"),
    "no json": (b"model: 3", "is not a valid tokenizer.json"),
    "no tokenizer": (b'{"clip_id": "video7"}', "is not a valid tokenizer.json"),
    "binary": (b"\x89PNG\xff\xfe", "is not a tokenizer.json .*; use a JSON file in UTF-8"),
    "UTF-16": ("{}".encode("utf-16"), "is UTF-16 or UTF-32, not UTF-8; re-encode it"),
    "compressed": (gzip.compress(b"{}"), r"is compressed \(gzip\); decompress it"),
    "no end": (json.dumps(no_end).encode(), r"has no token <\|endoftext\|>"),
    "end not last": (json.dumps(not_last).encode(), "has id 31, but the largest id is 32"),
    "no unknown": (json.dumps(no_unknown).encode(), "is not a valid tokenizer.json"),
  }


@pytest.mark.parametrize(
  "case",
  [
    "empty",
    "web page",
    "pointer",
    "no json",
    "no tokenizer",
    "binary",
    "UTF-16",
    "compressed",
    "no end",
    "end not last",
    "no unknown",
  ],
)
def test_an_unsuitable_file_is_rejected_by_name(tmp_path, case):
  content, message = unsuitable()[case]
  path = tmp_path / "chosen.json"
  path.write_bytes(content)
  with pytest.raises(UserError, match=rf"chosen\.json.*{message}"):
    load_tokenizer(path)


def test_a_missing_file_is_rejected_by_name(tmp_path):
  for name in ("clipp", tmp_path / "tokenizer.json", tmp_path):
    with pytest.raises(UserError, match=r"cannot read the tokenizer .*; use 'clip' or the path of a tokenizer\.json"):
      load_tokenizer(name)
