"""Segments of recognised speech, as Whisper and its protocol return them, and which of them are heard where none is."""

import dataclasses
from collections.abc import Iterable

from clipvip_jax.transcription.words import Word, time_words

# Whisper's own thresholds: silence, and text that repeats itself.
_NO_SPEECH, _LOG_PROBABILITY, _COMPRESSION = 0.6, -1.0, 2.4


@dataclasses.dataclass(frozen=True)
class Segment:
  """Recognised speech.

  Attributes:
    start: seconds.
    end: seconds.
    text: with punctuation.
    words: with their times, if the engine has them.
    no_speech: probability that nothing is spoken.
    log_probability: mean of the tokens.
    compression: ratio by which the text can be compressed.
  """

  start: float
  end: float
  text: str
  words: tuple[Word, ...] = ()
  no_speech: float = 0.0
  log_probability: float = 0.0
  compression: float = 0.0

  @property
  def is_imagined(self) -> bool:
    """Whether a speech model has probably invented the text, of silence or music."""
    is_silence = self.no_speech > _NO_SPEECH and self.log_probability < _LOG_PROBABILITY
    return is_silence or self.compression > _COMPRESSION


@dataclasses.dataclass(frozen=True)
class Speech:
  """Result of an engine for a part of the sound.

  Attributes:
    words: with times from the start of the part.
    imagined: number of segments that are left out, since a model has probably invented them.
    failure: reason for which there is no result; "" if there is one.
  """

  words: tuple[Word, ...] = ()
  imagined: int = 0
  failure: str = ""


def to_speech(segments: Iterable[Segment], seconds: float) -> Speech:
  """Returns the words of segments, with times from 0 to `seconds`, the length of the sound."""
  words, imagined = list[Word](), 0
  for segment in segments:
    if segment.is_imagined:
      imagined += 1
      continue
    words += time_words(segment.text, segment.start, segment.end, segment.words)
  clipped = [Word(min(max(0.0, word.start), seconds), min(max(0.0, word.end), seconds), word.text) for word in words]
  return Speech(tuple(sorted(clipped)), imagined)
