"""A vocabulary of words: order, end id and repeatability."""

import pickle

import numpy as np
import pytest
from tokenizer_json import TEXTS

from clipvip_jax.input_pipeline.word_tokenizer import WordTokenizer
from clipvip_jax.utils.errors import UserError


def test_words_are_ordered_by_count_then_alphabet():
  words = WordTokenizer.train(["b a, c", "C a  B", "d"], 20)
  assert (words.vocab_size, words.start_id, words.end_id) == (20, 18, 19)
  np.testing.assert_array_equal(words(["A b c , d other"], 8), [[18, 2, 3, 4, 5, 6, 1, 19]])


def test_the_end_id_depends_only_on_the_vocabulary_size():
  many = [" ".join(f"word{i}" for i in range(500))]
  for size in (4, 10, 100):
    for texts in ([], TEXTS, many):
      words = WordTokenizer.train(texts, size)
      assert (words.vocab_size, words.end_id) == (size, size - 1)
      assert words(many + TEXTS, 600).max() == size - 1
  with pytest.raises(UserError, match="of 3 ids is too small; use at least 4"):
    WordTokenizer.train(TEXTS, 3)
  with pytest.raises(UserError, match="text 1 is not valid Unicode"):
    WordTokenizer.train(["a", "\ud83d"], 9)


def test_training_is_deterministic_and_iterates_once():
  texts = [" ".join(np.random.default_rng(i).choice(["red", "blue", "dog", "man", "cat"], 7)) for i in range(40)]
  trained = [WordTokenizer.train(source, 16) for source in (texts, iter(texts), reversed(texts))]
  assert len({pickle.dumps(tokenizer) for tokenizer in trained}) == 1
