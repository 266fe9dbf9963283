"""Sound of videos: times, parts, and corrupt files."""

import io
import wave

import corpora
import numpy as np
import pytest
import speech

from clipvip_jax.input_pipeline.media_error import MediaError
from clipvip_jax.transcription.audio import RATE, read_chunks, to_wav

TEXTS = speech.SENTENCES[:3]


@pytest.fixture(scope="module")
def spoken():
  return speech.place([speech.tone_burst(text) for text in TEXTS], [0.5, 1.2, 2.0])


def heard(chunks):
  """Returns spans of sound in seconds from the start of the video."""
  return [(chunk.start + a, chunk.start + b) for chunk in chunks for a, b in speech.hear(chunk.samples)]


@pytest.mark.parametrize(
  ("name", "codec"), [("a.mp4", "aac"), ("a.mkv", "libopus"), ("a.avi", "mp2"), ("a.mov", "pcm_s16le")]
)
def test_times_are_those_of_the_pictures(tmp_path, spoken, name, codec):
  samples, spans = spoken
  path = speech.write_spoken_video(tmp_path / name, samples, codec=codec)
  assert np.array(heard(read_chunks(path))) == pytest.approx(np.array(spans), abs=0.1)


def test_sound_that_begins_later_than_the_pictures(tmp_path, spoken):
  samples, spans = spoken
  path = speech.write_spoken_video(tmp_path / "late.mkv", samples, audio_delay=1.5)
  assert np.array(heard(read_chunks(path))) == pytest.approx(np.array(spans) + 1.5, abs=0.1)


def test_parts_end_at_pauses_and_nothing_is_lost(tmp_path, spoken):
  samples, spans = spoken
  path = speech.write_spoken_video(tmp_path / "a.mkv", samples, codec="flac")
  chunks = list(read_chunks(path, seconds=6.5))
  assert len(chunks) == 2 and all(len(chunk.samples) <= 6.5 * RATE for chunk in chunks)
  assert np.concatenate([chunk.samples for chunk in chunks]).tolist() == samples.tolist()
  assert [chunk.start for chunk in chunks] == pytest.approx(
    np.cumsum([0, *(len(chunk.samples) / RATE for chunk in chunks[:-1])])
  )
  assert np.array(heard(chunks)) == pytest.approx(np.array(spans), abs=0.02)


def test_wav_is_read_back():
  samples = speech.tone_burst("word")
  with wave.open(io.BytesIO(to_wav(samples))) as file:
    assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (RATE, 1, 2)
    assert np.frombuffer(file.readframes(file.getnframes()), "<i2").tolist() == samples.tolist()


def test_files_without_sound_and_corrupt_ones_are_named(tmp_path, spoken):
  silent = corpora.write_video(tmp_path / "silent.mp4")
  with pytest.raises(MediaError, match=r"silent\.mp4: has no sound"):
    list(read_chunks(silent))
  (tmp_path / "list.mp4").write_text("ffconcat version 1.0\nfile silent.mp4\n")
  with pytest.raises(MediaError, match="not a video in a supported format"):
    list(read_chunks(tmp_path / "list.mp4"))
  path = speech.write_spoken_video(tmp_path / "cut.mov", spoken[0], codec="pcm_s16le")
  with pytest.raises(MediaError, match="no such file"):
    list(read_chunks(tmp_path / "gone.mp4"))
  fast = tmp_path / "cut.mkv"
  fast.write_bytes(speech.write_spoken_video(tmp_path / "a.mkv", spoken[0], codec="flac").read_bytes()[:4000])
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
  with pytest.raises(MediaError, match="truncated"):
    list(read_chunks(path))
