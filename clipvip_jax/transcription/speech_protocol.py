"""The OpenAI transcription protocol: requests with a WAV file, and answers with times.

Servers of Whisper models and hosted services speak it. What an endpoint sends is untrusted.
"""

import io
import json
import math
from collections.abc import Mapping
from typing import Any

import aiohttp

from clipvip_jax.captioning.http_faults import Fault
from clipvip_jax.transcription.audio import RATE, Chunk, to_wav
from clipvip_jax.transcription.segments import Segment, Speech, to_speech
from clipvip_jax.transcription.words import Word
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import printable

_MAX_SEGMENTS, _MAX_TEXT = 100_000, 10_000
_SLACK = 5.0  # seconds by which a time may be outside of the sound: models pad it


class SpeechProtocol:
  """Requests and answers for parts of the sound; see `EndpointClient`."""

  path = "/audio/transcriptions"

  def __init__(self, model: str, language: str, parameters: Mapping[str, Any]):
    """Args: the model's name at the endpoint; code of the language or ""; further fields of each request."""
    self._fields = {
      "model": model,
      "response_format": "verbose_json",
      "timestamp_granularities[]": ["segment", "word"],
      **({"language": language} if language else {}),
      **parameters,
    }

  def request(self, item: Chunk) -> dict[str, Any]:
    """Returns the arguments of a request."""
    form = aiohttp.FormData()
    for name, values in self._fields.items():
      for value in values if isinstance(values, list) else [values]:
        form.add_field(name, value if isinstance(value, str) else json.dumps(value))
    form.add_field("file", io.BytesIO(to_wav(item.samples)), filename="speech.wav", content_type="audio/wav")
    return {"data": form}

  def parse(self, body: bytes, item: Chunk) -> Speech:
    """Returns the words of an answer.

    Args:
      body: of the response.
      item: the sound.

    Raises:
      Fault: it is not an answer of this protocol.
      UserError: the model or the server gives no times.
    """
    try:
      content = json.loads(body)
      segments, words = content.get("segments"), content.get("words") or []
      if segments is None and isinstance(content.get("text"), str):
        raise UserError(
          "answered without times of segments; use a model and a server that support response_format=verbose_json"
        )
      timed = [Word(_time(word["start"]), _time(word["end"]), _text(word["word"]).strip()) for word in words]
      parsed = [_parse_segment(segment, timed) for segment in segments[:_MAX_SEGMENTS]]
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError) as error:
      raise Fault("garbage", f"not an answer of transcription: {printable(body[:60])}") from error
    seconds = len(item.samples) / RATE
    if any(segment.end > seconds + _SLACK for segment in parsed):
      raise Fault("garbage", f"a time after the end of the sound ({seconds:.1f} s)")
    return to_speech(parsed, seconds)

  def refused(self, detail: str) -> Speech:
    """Returns the result of a part that the endpoint does not accept, or all of whose requests failed."""
    return Speech(failure=detail)

  failed = refused


def _parse_segment(segment: Any, words: list[Word]) -> Segment:
  start, end = _time(segment["start"]), _time(segment["end"])
  return Segment(
    start,
    max(start, end),
    _text(segment["text"]),
    tuple(word for word in words if start <= (word.start + word.end) / 2 < end),
    _number(segment.get("no_speech_prob")),
    _number(segment.get("avg_logprob")),
    _number(segment.get("compression_ratio")),
  )


def _time(value: Any) -> float:
  if not math.isfinite(number := float(value)) or isinstance(value, str | bool):
    raise ValueError("a time must be a number")
  return number


def _number(value: Any) -> float:
  return 0.0 if value is None else _time(value)


def _text(value: Any) -> str:
  if not isinstance(value, str) or len(value) > _MAX_TEXT:
    raise TypeError("a text must be a string")
  return value
