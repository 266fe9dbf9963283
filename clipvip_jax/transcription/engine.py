"""Interface of engines that recognise speech, and the one that runs Whisper in process."""

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np

from clipvip_jax.transcription.audio import RATE, Chunk
from clipvip_jax.transcription.segments import Segment, Speech, to_speech
from clipvip_jax.transcription.words import Word
from clipvip_jax.utils.errors import UserError, first_line

# Number of a part of the sound, and the part.
NumberedChunk = tuple[int, Chunk]


class Engine(Protocol):
  """Recognises speech."""

  def describe(self) -> dict[str, Any]:
    """Returns what determines the words, as JSON values for the header of the output: engine, model, language."""

  def check(self) -> None:
    """Checks, before videos are read, that the engine can be used.

    Raises:
      UserError: it cannot.
    """

  def run(self, chunks: Iterator[NumberedChunk], done: Callable[[int, Speech], None]) -> None:
    """Recognises speech.

    Args:
      chunks: drawn from as results arrive, by one thread at a time.
      done: called with the number and the result of each part, in any order; times are from the start of the part.

    Raises:
      UserError: nothing can be recognised, as with a wrong key.
    """


class WhisperEngine:
  """Runs a Whisper model with faster-whisper, on a GPU if there is one."""

  def __init__(self, model: str, language: str):
    """Loads the model.

    Args:
      model: size, such as "small", or a folder, or OWNER/NAME on the HuggingFace hub.
      language: code such as "en"; "": detected in each part.

    Raises:
      UserError: faster-whisper is not installed, or the model cannot be loaded.
    """
    self._name, self._language = model, language
    try:
      import faster_whisper
    except ImportError as error:
      raise UserError(
        "--engine=faster-whisper needs faster-whisper, which is not installed: pip install 'clipvip_jax[whisper]'"
      ) from error
    try:
      self._model = faster_whisper.WhisperModel(model, device="auto", compute_type="default")
    except (ValueError, RuntimeError, OSError) as error:
      raise UserError(
        f"--model={model} cannot be loaded ({first_line(error)}); pass a size such as small, or the folder of a model"
      ) from error

  def describe(self) -> dict[str, Any]:
    """See `Engine`."""
    return {"engine": "faster-whisper", "model": self._name, "language": self._language}

  def check(self) -> None:
    """The constructor has loaded the model."""

  def run(self, chunks: Iterator[NumberedChunk], done: Callable[[int, Speech], None]) -> None:
    """See `Engine`."""
    for number, chunk in chunks:
      sound = chunk.samples.astype(np.float32) / 32768
      segments, _ = self._model.transcribe(
        sound, language=self._language or None, word_timestamps=True, vad_filter=True, condition_on_previous_text=False
      )
      done(number, to_speech(map(_convert, segments), len(chunk.samples) / RATE))


def _convert(segment: Any) -> Segment:
  words = tuple(Word(word.start, word.end, word.word.strip()) for word in segment.words or () if word.word.strip())
  return Segment(
    segment.start,
    segment.end,
    segment.text,
    words,
    segment.no_speech_prob,
    segment.avg_logprob,
    segment.compression_ratio,
  )
