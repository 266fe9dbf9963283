"""Times of words within a text."""

import pytest

from clipvip_jax.transcription.words import Word, spread_words, time_words


def test_words_divide_the_time_by_their_lengths():
  words = spread_words("a  bbb\ncc", 10.0, 14.0)
  assert [word.text for word in words] == ["a", "bbb", "cc"]
  assert [time for word in words for time in word[:2]] == pytest.approx([10, 10.5, 11, 12.5, 13, 14])
  assert spread_words(" ", 0, 1) == []


def test_words_with_times_get_the_punctuation_of_the_text():
  timed = [Word(1, 2, "so"), Word(2, 2.5, "what")]
  assert time_words("So, what?", 0, 3, timed) == [Word(1, 2, "So,"), Word(2, 2.5, "what?")]
  assert time_words("So what is", 0, 3, timed) == spread_words("So what is", 0, 3)
  assert time_words("So", 0, 3, []) == [Word(0, 3, "So")]
