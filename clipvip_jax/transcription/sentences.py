"""Cuts transcribed speech into clips along its sentences, as HD-VILA-100M is."""

import dataclasses
import re
from collections.abc import Sequence

from clipvip_jax.transcription.words import Word

MAX_PAUSE = 2.0  # seconds of silence that end a sentence, and that no clip contains
_SENTENCE_END = re.compile(r"(?:[.!?…]+|[。！？]+)[\"'”’»)\]]*$")  # noqa: RUF001  # as subtitles write them
_CLAUSE_END = re.compile(r"[,;:—–、，；：][\"'”’»)\]]*$")  # noqa: RUF001
_ABBREVIATION = re.compile(r"(?:[A-Z]|Mr|Mrs|Ms|Dr|Prof|St|vs|No|Jr|Sr|etc|e\.g|i\.e|[A-Z](?:\.[A-Z])+)\.")
_DIGITS = 3  # of seconds: milliseconds

Sentence = Sequence[Word]


@dataclasses.dataclass(frozen=True)
class Clip:
  """A clip of a video: start and end in seconds, and what is said in it."""

  start: float
  end: float
  subtitle: str


@dataclasses.dataclass
class Cut:
  """Clips, and the counts and seconds of speech that is in none.

  Attributes:
    clips: in the order of time.
    too_short: passages shorter than the minimum, with no others near enough to join.
    too_long: words longer than the maximum: corrupt times.
  """

  clips: list[Clip] = dataclasses.field(default_factory=list)
  too_short: int = 0
  too_long: int = 0


def cut_sentences(words: Sequence[Word], min_seconds: float, max_seconds: float) -> Cut:
  """Cuts speech at ends of sentences.

  Sentences end with punctuation, or before a pause of MAX_PAUSE. A sentence longer than `max_seconds` is cut at a
  clause or the longest pause near its middle; shorter ones are joined until they last `min_seconds`.

  Args:
    words: with their times, in order.
    min_seconds: shortest clip.
    max_seconds: longest clip.
  """
  cut = Cut()
  sentences: list[list[Word]] = []
  for sentence in split_sentences(words):
    for part in _split_long(sentence, max_seconds):
      if _seconds(part) > max_seconds:
        cut.too_long += 1
      else:
        sentences.append(part)
  group: list[Word] = []
  for sentence in sentences:
    if group and (_seconds(group) >= min_seconds or not _can_join(group, sentence, max_seconds)):
      _finish(cut, group, min_seconds, max_seconds)
      group = []
    group = [*group, *sentence]
  if group:
    _finish(cut, group, min_seconds, max_seconds)
  return cut


def split_sentences(words: Sequence[Word]) -> list[list[Word]]:
  """Splits words into sentences: after punctuation that ends one, and before long pauses."""
  sentences: list[list[Word]] = []
  previous: Word | None = None
  for word in words:
    if previous is None or _ends_sentence(previous.text) or word.start - previous.end >= MAX_PAUSE:
      sentences.append([])
    sentences[-1].append(word)
    previous = word
  return sentences


def _ends_sentence(text: str) -> bool:
  return bool(_SENTENCE_END.search(text)) and not _ABBREVIATION.fullmatch(text)


def _seconds(sentence: Sentence) -> float:
  return _span(sentence)[1] - _span(sentence)[0]


def _span(sentence: Sentence) -> tuple[float, float]:
  """Returns start and end, in milliseconds' precision: subtitles of several speakers overlap."""
  start, end = min(word.start for word in sentence), max(word.end for word in sentence)
  return round(start, _DIGITS), round(end, _DIGITS)


def _can_join(group: Sentence, sentence: Sentence, max_seconds: float) -> bool:
  near = sentence[0].start - _span(group)[1] < MAX_PAUSE
  return near and _seconds([*group, *sentence]) <= max_seconds


def _finish(cut: Cut, group: list[Word], min_seconds: float, max_seconds: float) -> None:
  """Adds a clip; joins one that is too short with the clip before it if that is near and stays short enough."""
  text = " ".join(word.text for word in group)
  start, end = _span(group)
  if end - start >= min_seconds:
    cut.clips.append(Clip(start, end, text))
    return
  last = cut.clips[-1] if cut.clips else None
  if last is not None and start - last.end < MAX_PAUSE and end - last.start <= max_seconds:
    cut.clips[-1] = Clip(last.start, max(end, last.end), f"{last.subtitle} {text}")
  else:
    cut.too_short += 1


def _split_long(sentence: list[Word], max_seconds: float) -> list[list[Word]]:
  """Splits a sentence until each part lasts at most `max_seconds`, or is one word."""
  parts, pending = [], [sentence]
  while pending:
    part = pending.pop()
    if len(part) == 1 or _seconds(part) <= max_seconds:
      parts.append(part)
      continue
    middle = (part[0].start + part[-1].end) / 2
    half = max(part[-1].end - part[0].start, 1e-9) / 2

    def cost(number: int, part: list[Word] = part, middle: float = middle, half: float = half) -> float:
      """Returns the distance from the middle, less what a clause and a pause are worth."""
      before, after = part[number - 1], part[number]
      clause = 0.5 if _CLAUSE_END.search(before.text) else 0.0
      return abs(after.start - middle) / half - clause - min(max(0.0, after.start - before.end), 1.0)

    number = min(range(1, len(part)), key=cost)
    pending += [part[number:], part[:number]]
  return parts
