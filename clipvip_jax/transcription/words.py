"""Words of speech with their times: the result of every engine, and of subtitle files."""

from collections.abc import Sequence
from typing import NamedTuple


class Word(NamedTuple):
  """A word with its punctuation, and when it is spoken, in seconds from the start of the video."""

  start: float
  end: float
  text: str


def spread_words(text: str, start: float, end: float) -> list[Word]:
  """Splits a text into words, whose times are in proportion to their lengths.

  Args:
    text: spoken from `start` to `end`.
    start: seconds.
    end: seconds.
  """
  tokens = text.split()
  total = sum(len(token) + 1 for token in tokens) - 1
  words, position = [], 0
  for token in tokens:
    begin, until = (start + (end - start) * offset / total for offset in (position, position + len(token)))
    words.append(Word(begin, until, token))
    position += len(token) + 1
  return words


def time_words(text: str, start: float, end: float, timed: Sequence[Word]) -> list[Word]:
  """Combines the words of a text, which have punctuation, with those that have times and may lack it.

  Args:
    text: spoken from `start` to `end`.
    start: seconds.
    end: seconds.
    timed: words of the same time; if they are not as many as those of the text, their times are not used.
  """
  tokens = text.split()
  if not timed or len(tokens) != len(timed):
    return spread_words(text, start, end)
  return [word._replace(text=token) for word, token in zip(timed, tokens, strict=True)]
