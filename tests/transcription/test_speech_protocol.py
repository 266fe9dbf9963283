"""Requests and answers of the transcription protocol."""

import asyncio
import email
import io
import json
import wave

import numpy as np
import pytest

from clipvip_jax.captioning.http_faults import Fault
from clipvip_jax.transcription.audio import RATE, Chunk
from clipvip_jax.transcription.segments import Speech
from clipvip_jax.transcription.speech_protocol import SpeechProtocol
from clipvip_jax.transcription.words import Word, spread_words
from clipvip_jax.utils.errors import UserError

CHUNK = Chunk(600.0, np.zeros(10 * RATE, np.int16))
PROTOCOL = SpeechProtocol("whisper-1", "en", {"temperature": 0, "vad_filter": True})


def parse(answer):
  body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
  return PROTOCOL.parse(body, CHUNK)


def form_parts(protocol):
  """Returns the (content, name, type) of each part of a request, whose type is that of files."""
  writer = protocol.request(CHUNK)["data"]()
  head = f"Content-Type: {writer.content_type}\r\n\r\n".encode()
  parts = list(email.message_from_bytes(head + asyncio.run(writer.as_bytes())).walk())[1:]
  names = [part.get_param("name", header="Content-Disposition") for part in parts]
  return [
    (part.get_payload(decode=True), name, part.get_content_type()) for part, name in zip(parts, names, strict=True)
  ]


def segment(start, end, text, **fields):
  return {"id": 0, "start": start, "end": end, "text": text, **fields}


def test_a_request_has_the_sound_and_asks_for_times():
  *fields, (sound, name, kind) = form_parts(PROTOCOL)
  assert [(text.decode(), field) for text, field, _ in fields] == [
    ("whisper-1", "model"),
    ("verbose_json", "response_format"),
    ("segment", "timestamp_granularities[]"),
    ("word", "timestamp_granularities[]"),
    ("en", "language"),
    ("0", "temperature"),
    ("true", "vad_filter"),
  ]
  assert (name, kind) == ("file", "audio/wav")
  with wave.open(io.BytesIO(sound)) as file:
    assert file.getnframes() == 10 * RATE
  assert "language" not in [field for _, field, _ in form_parts(SpeechProtocol("m", "", {}))]


def test_times_are_those_of_words_where_the_answer_has_them():
  words = [{"word": "so", "start": 1.1, "end": 1.3}, {"word": "what", "start": 1.5, "end": 2.0}]
  words.append({"word": "other", "start": 4.0, "end": 4.5})
  speech = parse({"segments": [segment(1, 3, " So, what?"), segment(3, 5, " Two words.")], "words": words})
  assert speech.words == (Word(1.1, 1.3, "So,"), Word(1.5, 2.0, "what?"), *spread_words("Two words.", 3, 5))


def test_whispers_own_marks_of_silence_are_used():
  imagined = segment(0, 1, "Thank you.", no_speech_prob=0.95, avg_logprob=-1.4, compression_ratio=0.7)
  assert parse({"segments": [imagined]}) == Speech((), 1)
  assert parse({"segments": [], "text": ""}) == Speech()


@pytest.mark.parametrize(
  "answer",
  [
    b"",
    b"\xff",
    b"[" * 100_000,
    b"[]",
    {},
    {"segments": {}},
    {"segments": ["x"]},
    {"segments": [{"start": 0, "end": 1}]},
    {"segments": [segment("0", 1, "x")]},
    {"segments": [segment(float("nan"), 1, "x")]},
    {"segments": [segment(0, None, "x")]},
    {"segments": [segment(0, 1, 7)]},
    {"segments": [segment(0, 1, "x" * 20_000)]},
    {"segments": [segment(0, 600, "after the end")]},
    {"segments": [], "words": [{"word": "x"}]},
    {"error": "overloaded"},
  ],
)
def test_garbage_is_a_fault(answer):
  with pytest.raises(Fault, match="garbage"):
    parse(answer)


def test_an_answer_without_times_ends_the_run():
  with pytest.raises(UserError, match="without times of segments; use a model and a server that support"):
    parse({"text": "some words"})


def test_refused_and_failed_parts_have_a_reason():
  assert PROTOCOL.refused("answered 413") == PROTOCOL.failed("answered 413") == Speech(failure="answered 413")
