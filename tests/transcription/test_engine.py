"""Whisper in process, with a stand-in for faster-whisper that has its interface."""

import sys
import types

import numpy as np
import pytest
import speech

from clipvip_jax.transcription.audio import RATE, Chunk
from clipvip_jax.transcription.engine import WhisperEngine
from clipvip_jax.utils.errors import UserError


class WhisperModel:
  """Hears one word per burst of sound."""

  def __init__(self, model, device, compute_type):
    assert (device, compute_type) == ("auto", "default")
    if model == "huge":
      raise ValueError("Invalid model size 'huge', expected one of: tiny, base\nmore")

  def transcribe(self, sound, *, language, word_timestamps, vad_filter, condition_on_previous_text):
    assert sound.dtype == np.float32 and np.abs(sound).max() <= 1
    assert (language, word_timestamps, vad_filter, condition_on_previous_text) == ("en", True, True, False)
    return (_segment(number, *span) for number, span in enumerate(speech.hear((sound * 32768).astype(np.int16)))), None


def _segment(number, start, end):
  word = types.SimpleNamespace(start=start, end=end, word=f" word{number}.", probability=1.0)
  quality = {"no_speech_prob": 0.1, "avg_logprob": -0.2, "compression_ratio": 1.0}
  return types.SimpleNamespace(start=start - 0.5, end=end + 0.5, text=word.word, words=[word], **quality)


@pytest.fixture
def installed(monkeypatch):
  monkeypatch.setitem(sys.modules, "faster_whisper", types.SimpleNamespace(WhisperModel=WhisperModel))


def test_words_have_the_times_of_the_model(installed):
  samples, spans = speech.place([speech.tone_burst("two letters")] * 2, [0.5, 1.5])
  results = {}
  engine = WhisperEngine("small", "en")
  engine.check()
  engine.run(iter([(7, Chunk(600.0, samples)), (8, Chunk(0.0, np.zeros(RATE, np.int16)))]), results.__setitem__)
  assert [word[:2] for word in results[7].words] == [pytest.approx(span, abs=0.02) for span in spans]
  assert [word.text for word in results[7].words] == ["word0.", "word1."]
  assert results[8].words == ()
  assert engine.describe() == {"engine": "faster-whisper", "model": "small", "language": "en"}


def test_a_model_that_cannot_be_loaded_takes_one_line(installed):
  with pytest.raises(UserError, match=r"--model=huge cannot be loaded \(Invalid model size .*base\); pass a size"):
    WhisperEngine("huge", "en")


def test_without_the_extra_the_message_names_the_command(monkeypatch):
  monkeypatch.setitem(sys.modules, "faster_whisper", None)
  with pytest.raises(UserError, match=r"which is not installed: pip install 'clipvip_jax\[whisper\]'"):
    WhisperEngine("small", "")
