"""CLIP's tokenizer: the reference's ids, and other vocabularies."""

import json

import numpy as np
import pytest

from clipvip_jax.input_pipeline.clip_tokenizer import ClipTokenizer, has_clip_vocabulary
from clipvip_jax.input_pipeline.word_tokenizer import WordTokenizer


def test_clip_ids_equal_the_reference(golden):
  records = [record for record in golden("tokens.json") if "<|" not in record["text"]]
  assert len(records) == 109
  expected = np.zeros((len(records), 70), np.int32)
  for row, record in zip(expected, records, strict=True):
    row[: len(record["ids"])] = record["ids"]
  tokens = ClipTokenizer()([record["text"] for record in records], 70)
  wrong = [record["text"] for record, good in zip(records, (tokens == expected).all(axis=1), strict=True) if not good]
  assert not wrong and tokens.dtype == np.int32


def test_clip_ids():
  clip = ClipTokenizer()
  assert (clip.vocab_size, clip.start_id, clip.end_id) == (49408, 49406, 49407)
  np.testing.assert_array_equal(clip(["A  photo\nof a Cat"], 5), [[49406, 320, 1125, 539, 49407]])
  np.testing.assert_array_equal(*(clip([text], 9) for text in ("caf\u00e9", "CAFE\u0301")))


def test_clips_digest_is_that_of_earlier_versions():
  """Runs and indexes record it: another one refuses to resume them."""
  assert ClipTokenizer().digest == "6c5c82ba50f2c447f627ab74f1b0c67c"


def test_ascii_texts_are_split_like_all_others():
  """Only texts in ASCII are split by `re` and word by word; another character at the end makes a text general."""
  random, clip = np.random.default_rng(0), ClipTokenizer()
  frequent = list("'streve'lld 'S'T \t\n\v\f\r\x1c\x1f")
  texts = ["".join(random.choice(frequent + [chr(code) for code in range(128)], 60)) for _ in range(500)]
  texts += ["y" * 33 + "'s", "a" * 5000, *(chr(code) for code in range(128))]
  last = clip(["\u00e9"], 4)[0, 1:3]
  for text in texts:
    alone, general = clip([text, f"{text} \u00e9"], 6000)
    end = alone.argmax()
    assert general[: end + 2].tolist() == [*alone[:end], *last], repr(text)


# Ids of transformers 5.24's CLIPTokenizer, built from the merges that OpenAI publishes: 480 is final sigma, 481 sigma.
@pytest.mark.parametrize(
  ("text", "ids"),
  [
    ("\u039f\u0394\u039f\u03a3", [138, 123, 138, 112, 138, 123, 139, 481]),
    ("\u0391\u03a3 \u0392\u03a3", [138, 109, 139, 481, 138, 110, 139, 481]),
    ("A'\u03a3 \u039c\u0391\u03a3.", [320, 262, 139, 481, 138, 120, 138, 109, 139, 481, 269]),
    ("\u03a3", [139, 481]),
    ("\u03bf\u03b4\u03cc\u03c2", [138, 123, 138, 112, 139, 234, 139, 480]),
    ("\u039f\u0394\u039f\u03a3\u0301", [138, 123, 138, 112, 138, 123, 139, 481, 136, 479]),
  ],
)
def test_capital_sigma_at_the_end_of_a_word_is_as_in_the_reference(text, ids):
  assert ClipTokenizer()([text], len(ids) + 2)[0].tolist() == [49406, *ids, 49407]


@pytest.mark.parametrize(
  "word",
  [
    "\u0391\u03a3",
    "\u0392\u03a3\u0392\u03a3",
    "\u039b\u03cc\u03a3",
    "a\u03a3\u02bc",
    "\u03a3\u03c2\u03a3 \u039c\u03a3-",
  ],
)
def test_capital_sigma_is_lowered_as_by_the_package_of_the_fast_tokenizer(word):
  """OpenAI's own tokenizer calls str.lower, which gives other ids for these words."""
  from tokenizers import normalizers

  lowered = normalizers.Lowercase().normalize_str(word)
  clip = ClipTokenizer()
  np.testing.assert_array_equal(clip([word], 16), clip([lowered], 16))
  assert lowered != word.lower() and (clip([word], 16) != clip([word.lower()], 16)).any()


def test_other_vocabulary_of_the_same_size_is_not_clips(tmp_path):
  WordTokenizer.train(["a photo of two dogs"], 49408).save(tmp_path / "words.json")
  assert not has_clip_vocabulary(tmp_path / "words.json")
  words = ("a", "photo", "of", "two", "dogs", "playing", "in", "the", "snow")
  vocabulary = {f"{word}</w>": int(ClipTokenizer()([word], 3)[0, 1]) for word in words}
  for vocab, expected in (
    (vocabulary, True),
    ({**vocabulary, "dogs</w>": 5}, False),
    ({}, False),
    ([["a", 0.5]], False),
  ):
    (tmp_path / "clip.json").write_text(json.dumps({"model": {"vocab": vocab}}))
    assert has_clip_vocabulary(tmp_path / "clip.json") == expected
  (tmp_path / "clip.json").write_text("{")
  assert has_clip_vocabulary(tmp_path / "clip.json"), "no text can be tokenized with it"
