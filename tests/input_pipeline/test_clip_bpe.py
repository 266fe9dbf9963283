"""CLIP's byte-pair encoding: a plain loop over the merges gives the same ids."""

import functools
import gzip
import itertools

import numpy as np
import pytest
import tokenizers
from project_paths import ROOT

from clipvip_jax.input_pipeline.clip_bpe import CLIP_VOCAB_SIZE, build_bpe, clip_tokenizer_json
from clipvip_jax.input_pipeline.clip_tokenizer import ClipTokenizer
from clipvip_jax.input_pipeline.json_tokenizer import JsonTokenizer

MERGES = ROOT / "clipvip_jax" / "input_pipeline" / "clip_merges"


@pytest.fixture(scope="module")
def bpe():
  return build_bpe()


@functools.cache
def ranks():
  lines = gzip.decompress((MERGES / "merges.txt.gz").read_bytes()).decode("utf-8").splitlines()
  return {tuple(line.split(" ")): rank for rank, line in enumerate(lines)}


def byte_character(byte):
  """The byte itself where it is printable in Latin-1, else the next free character from U+0100 on."""
  shown = [*range(ord("!"), ord("~") + 1), *range(ord("\u00a1"), ord("\u00ac") + 1), *range(ord("\u00ae"), 256)]
  return chr(byte) if byte in shown else chr(256 + [other for other in range(256) if other not in shown].index(byte))


def plain_bpe(word):
  """Applies the earliest merge until none applies, as OpenAI's simple_tokenizer.py does."""
  parts = [byte_character(byte) for byte in word.encode()]
  parts[-1] += "</w>"
  while pairs := [pair for pair in itertools.pairwise(parts) if pair in ranks()]:
    first = min(pairs, key=ranks().get)
    merged, position = [], 0
    while position < len(parts):
      together = tuple(parts[position : position + 2]) == first
      merged.append("".join(first) if together else parts[position])
      position += 2 if together else 1
    parts = merged
  return parts


def test_merges_are_those_of_openai():
  assert len(ranks()) == 49152 - 256 - 2
  assert list(ranks())[:2] == [("i", "n"), ("t", "h")] and list(ranks())[-1] == ("jeky", "ll</w>")
  assert "Copyright (c) 2021 OpenAI" in (MERGES / "LICENSE").read_text(encoding="utf-8")


def test_ids_are_bytes_then_bytes_at_the_end_of_a_word_then_merges(bpe):
  assert bpe.get_vocab_size() == 49406
  assert [bpe.id_to_token(index) for index in (0, 93, 94, 187, 188, 255)] == [
    "!",
    "~",
    "\u00a1",
    "\u00ff",
    "\u0100",
    "\u0143",
  ]
  assert [bpe.id_to_token(index) for index in (256, 511, 512, 49405)] == ["!</w>", "\u0143</w>", "in", "jekyll</w>"]


def test_words_equal_a_plain_loop(bpe):
  random = np.random.default_rng(0)
  letters = list("aeinorst" * 4) + list("abcdefghijklmnopqrstuvwxyz\u00e9\u0447\u65e5\u0e44\U0001d4b6")
  words = ["".join(random.choice(letters, random.integers(1, 14))) for _ in range(400)]
  words += [chr(code) for code in range(0xA1, 0x2000, 7) if chr(code).isalpha() and chr(code).islower()]
  for word in words:
    assert bpe.encode(word, add_special_tokens=False).tokens == plain_bpe(word), word


@pytest.mark.parametrize(
  ("text", "words"),
  [
    ("It's   HERE\n\t2day!?", ["it", "'s", "here", "2", "day", "!?"]),
    ("you'll 'til l'eau", ["you", "'ll", "'t", "il", "l", "'", "eau"]),
    ("x<|endoftext|>", ["x", "<|", "endoftext", "|>"]),
    ("\u039f\u03a3 12\u00bd\u3000\u65e5\u672c", ["\u03bf\u03c3", "1", "2", "\u00bd", "\u65e5\u672c"]),
    ("a_b\u0301c \x00", ["a", "_", "b", "\u0301", "c", "\x00"]),
  ],
)
def test_texts_are_split_into_words(bpe, text, words):
  expected = [part for word in words for part in plain_bpe(word)]
  assert bpe.encode(text, add_special_tokens=False).tokens == expected


def test_tokenizer_json_has_the_ids_of_the_tokenizer():
  rng = np.random.default_rng(0)
  codes = rng.choice(np.r_[32:127, 32:0x3000, 0x3000:0xD800, 0xE000:0x20000], (200, 40))
  texts = ["".join(map(chr, row)) for row in codes]
  texts += ["A dog's  cafe\u0301 \u03a3\u03a3\t\n12 345\u00a0x", "a <|endoftext|> b<|startoftext|>", ""]
  read = JsonTokenizer(clip_tokenizer_json())
  assert (read.vocab_size, read.start_id, read.end_id) == (CLIP_VOCAB_SIZE, 49406, 49407)
  np.testing.assert_array_equal(read(texts, 160), ClipTokenizer()(texts, 160))


def test_tokenizer_json_adds_the_special_tokens_for_other_programs():
  ids = tokenizers.Tokenizer.from_str(clip_tokenizer_json()).encode("a dog").ids
  assert ids == [49406, 320, 1929, 49407]
