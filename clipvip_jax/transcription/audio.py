"""Sound of a video file as 16 kHz mono, in parts that speech recognition accepts, decoded with PyAV."""

import io
import os
import wave
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Int16

from clipvip_jax.input_pipeline.ffmpeg_errors import error_reason
from clipvip_jax.input_pipeline.media_error import MediaError
from clipvip_jax.input_pipeline.remote_video import local_media
from clipvip_jax.input_pipeline.video_container import open_container

if TYPE_CHECKING:
  from av import AudioFrame
  from av.container import InputContainer

RATE = 16_000  # hertz, which speech recognition expects
NO_SOUND = "has no sound"  # a MediaError's `reason`
_CHUNK_SECONDS = 600  # 19 MB as WAV: endpoints accept 25 MB
_SEARCH_SECONDS = 30  # at the end of a part, in which the quietest moment is searched
_WINDOW = RATE // 10  # samples whose loudness is compared
_TOLERANCE = RATE // 20  # samples by which the clock of the file and the samples may differ
_MAX_GAP = 3600 * RATE  # samples of silence that a jump of the clock may insert
_MAX_LOST = 0.1  # fraction of the time


class Chunk(NamedTuple):
  """Consecutive sound: its start in seconds from that of the video, and int16 samples at RATE."""

  start: float
  samples: Int16[np.ndarray, " n"]


def read_chunks(path: str | os.PathLike[str], seconds: float = _CHUNK_SECONDS) -> Iterator[Chunk]:
  """Yields the sound of the stream that players play, in parts that end at quiet moments.

  Times are those of the pictures: gaps in the sound are silent.

  Args:
    path: a video or sound file, local or in a bucket, untrusted. No other file is opened.
    seconds: the longest part.

  Raises:
    MediaError: the file is not readable, has no sound, or more than a tenth of its sound is missing or corrupt.
  """
  with local_media(path) as local:
    yield from _split_samples(_read_samples(local), round(seconds * RATE))


def _split_samples(sound: Iterable[Int16[np.ndarray, " n"]], size: int) -> Iterator[Chunk]:
  start, pending = 0, np.zeros(0, np.int16)
  for samples in sound:
    pending = np.concatenate([pending, samples])
    while len(pending) > size:
      end = _quiet_moment(pending[:size])
      yield Chunk(start / RATE, pending[:end])
      pending, start = pending[end:], start + end
  if len(pending):
    yield Chunk(start / RATE, pending)


def to_wav(samples: Int16[np.ndarray, " n"]) -> bytes:
  """Encodes samples at RATE as a WAV file."""
  file = io.BytesIO()
  with wave.open(file, "wb") as writer:
    writer.setnchannels(1)
    writer.setsampwidth(2)
    writer.setframerate(RATE)
    writer.writeframes(samples.astype("<i2").tobytes())
  return file.getvalue()


def _quiet_moment(samples: Int16[np.ndarray, " n"]) -> int:
  """Returns the middle of the quietest tenth of a second near the end."""
  first = max(len(samples) // 2, len(samples) - _SEARCH_SECONDS * RATE)
  count = (len(samples) - first) // _WINDOW
  if not count:
    return len(samples)
  windows = samples[len(samples) - count * _WINDOW :].reshape(count, _WINDOW).astype(np.float32)
  quietest = int(np.square(windows).mean(axis=1).argmin())
  return len(samples) - count * _WINDOW + quietest * _WINDOW + _WINDOW // 2


def _read_samples(path: str | os.PathLike[str]) -> Iterator[Int16[np.ndarray, " n"]]:
  """Yields consecutive samples from the start of the container on, with silence where there is no sound."""
  import av

  resampler = av.AudioResampler(format="s16", layout="mono", rate=RATE)
  count = lost = 0
  with open_container(path) as container:
    origin = (container.start_time or 0) / av.time_base
    for frame in _decode(path, container):
      if frame is None:  # corrupt
        lost += 1024
        continue
      if frame.time is not None:
        gap = round((frame.time - origin) * RATE) - count
        if _TOLERANCE < gap <= _MAX_GAP:
          count += gap
          yield np.zeros(gap, np.int16)
      for resampled in resampler.resample(frame):
        samples = resampled.to_ndarray().reshape(-1)
        count += len(samples)
        yield samples
    for resampled in resampler.resample(None):
      samples = resampled.to_ndarray().reshape(-1)
      count += len(samples)
      yield samples
    stream = container.streams.best("audio")
    promised = (
      float(stream.duration * stream.time_base) * RATE if stream and stream.duration and stream.time_base else 0
    )
  missing = max(lost, promised - count)
  if missing > _MAX_LOST * (count + missing):
    raise MediaError(path, f"truncated or corrupt: {count / RATE:.1f} s of its sound can be decoded")


def _decode(path: str | os.PathLike[str], container: "InputContainer") -> Iterator["AudioFrame | None"]:
  """Yields the frames of the sound; None for a packet that cannot be decoded."""
  import av

  stream = container.streams.best("audio")
  if stream is None or stream.codec_context is None:
    raise MediaError(path, NO_SOUND)
  stream.codec_context.thread_count = 1
  packets = container.demux(stream)
  while True:
    try:
      with av.logging.Capture():
        packet = next(packets, None)
        frames = [] if packet is None else packet.decode()
    except IndexError:  # PyAV cannot flush streams that began after the header: this is the end
      return
    except av.error.InvalidDataError:
      yield None
      continue
    except (av.error.FFmpegError, OSError) as error:
      raise MediaError(path, f"its sound cannot be read ({error_reason(error)})") from error
    if packet is None:
      return
    yield from (frame for frame in frames if isinstance(frame, av.AudioFrame))
