"""Video files to frames, and back: the one decoder that every corpus is built with."""

import contextlib
import dataclasses
import functools
import itertools
import os
import pathlib
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import numpy as np

from clipvip_jax import files
from clipvip_jax.errors import UserError

NO_SUCH_FILE = "no such file"  # the reason of a VideoError

# A file is called cut when fewer than this share of the promised frames can be decoded. Not all of them:
# containers count frames that an edit list hides, and round their durations.
_WHOLE_SHARE = 0.9


class VideoError(UserError):
  """A video file that cannot be used. The message is "PATH: reason"; `reason` holds the second half alone."""

  def __init__(self, path: str | os.PathLike[str], reason: str):
    super().__init__(f"{os.fspath(path)}: {reason}")
    self.path, self.reason = os.fspath(path), reason

  def __reduce__(self):
    # An exception is unpickled from its message alone, and this one is raised in worker processes.
    return type(self), (self.path, self.reason)


@dataclasses.dataclass(frozen=True)
class Picture:
  """A decoded picture that has not been turned into RGB yet, which costs as much as decoding it.

  seconds: when it is shown, counted from the container's start. shown_for: seconds until the next is due.
  rgb: gives uint8 [H, W, 3], turned upright.
  """

  seconds: float
  shown_for: float
  rgb: Callable[[], np.ndarray]


def decode_video(path: str | os.PathLike[str]) -> np.ndarray:
  """Every frame of the file's first video stream: uint8 RGB [T, H, W, 3], turned upright, T >= 1.

  Raises VideoError for a file that is missing, empty, cut or damaged, or holds no video stream.
  """
  return np.stack(list(iterate_frames(path)))


def iterate_frames(path: str | os.PathLike[str]) -> Iterator[np.ndarray]:
  """`decode_video` one uint8 [H, W, 3] frame at a time, for videos too long to hold.

  A cut file raises only after its last frame, so nothing drawn is good before the iterator has ended.
  """
  for picture in iterate_pictures(path):
    yield picture.rgb()


def iterate_pictures(
  path: str | os.PathLike[str], start: float | None = None, end: float | None = None
) -> Iterator[Picture]:
  """`iterate_frames` before the pictures are turned into RGB, of the whole file or of a part of it.

  Args:
    path: a video file.
    start: seconds; pictures from the last key frame before it on. Reading does not begin at the file's start.
    end: seconds; the first picture at or after it is not given.

  Raises:
    VideoError: as `decode_video`, and where a file ends before `end` although its container promises more.
  """
  # A seek may land behind `start` where a file has no usable index: then everything before it is read.
  for seek in [True, False] if start else [False]:
    pictures = _pictures(path, start if seek else None, end)
    try:
      first = next(pictures, None)
    except VideoError:
      if not seek:
        raise
      continue
    if first is not None and (not seek or first.seconds <= (start or 0)):
      yield from itertools.chain([first], pictures)
      return


def _pictures(path: str | os.PathLike[str], start: float | None, end: float | None) -> Iterator[Picture]:
  import av  # here, so that training processes, which read stored frames, start without FFmpeg

  with _opened(path) as (container, stream):
    promised = _promised_frames(container, stream)
    begins = (container.start_time or 0) / av.time_base
    if start:
      with contextlib.suppress(av.error.FFmpegError):
        container.seek(round((start + begins) * av.time_base))
    converter = av.video.reformatter.VideoReformatter()
    step = float(1 / stream.average_rate) if stream.average_rate else 0.04
    size: dict[str, int] = {}
    count, damage, seconds = 0, "", -step
    for frame, problem in _decoded(container, stream):
      damage = damage or problem
      if frame is None:
        continue
      seconds = seconds + step if frame.time is None else frame.time - begins
      if end is not None and seconds >= end:
        return
      size = size or {"width": frame.width, "height": frame.height}  # a stream may change its size midway
      yield Picture(seconds, _shown_for(frame, step), functools.partial(_rgb, converter, frame, size))
      count += 1
    if start or end is not None:
      promised = _promised_in_part(count, seconds, end, stream)
    elif not stream.frames and not damage and seconds + step >= _WHOLE_SHARE * _length(container, stream):
      promised = count  # to its end without a fault; where the rate varies, duration and rate give no number of frames
  _check_whole(path, count, promised, damage)


def _shown_for(frame: Any, step: float) -> float:
  return float(frame.duration * frame.time_base) if frame.duration and frame.time_base else step


def _promised_in_part(count: int, last: float, end: float | None, stream: Any) -> int:
  """Frames that a part read to the file's end must hold: those before `end` that the stream promises."""
  rate = float(stream.average_rate or 0)
  # Of the pictures alone: sound may outlast them.
  length = float(stream.duration * stream.time_base) if stream.duration and stream.time_base else 0.0
  return count + int(max(0.0, min(length, end if end is not None else length) - last - 1 / rate) * rate) if rate else 0


def count_packets(path: str | os.PathLike[str]) -> int:
  """Coded pictures of the file's first video stream, read without decoding: nearly always the number of its frames.

  It is another number where pictures are damaged, or coded in halves. Raises VideoError as `iterate_frames` does at
  its start.
  """
  import av

  count = 0
  with _opened(path) as (container, stream), contextlib.suppress(av.error.FFmpegError, OSError):
    for packet in container.demux(stream):
      count += bool(packet.size) and not packet.is_discard  # an edit list hides pictures
  return count


@contextlib.contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[tuple[Any, Any]]:
  """(container, first video stream) of a file."""
  import av

  _check_readable(path)
  try:
    container = av.open(os.fspath(path))
  except (av.error.FFmpegError, OSError) as error:
    raise VideoError(path, f"not a video, or cut before its index ({_words(error)})") from None
  with container:
    if not container.streams.video:
      raise VideoError(path, "has no video stream")
    yield container, container.streams.video[0]


def _rgb(converter: Any, frame: Any, size: dict[str, int]) -> np.ndarray:
  # One converter for all frames: to_ndarray(format=...) would build one, with its threads, for each.
  return _upright(converter.reformat(frame, format="rgb24", threads=1, **size).to_ndarray(), frame.rotation)


def _check_readable(path: str | os.PathLike[str]) -> None:
  file = pathlib.Path(path)
  if not file.exists():
    raise VideoError(path, NO_SUCH_FILE)
  if not file.is_file():
    raise VideoError(path, "not a file")
  if not file.stat().st_size:
    raise VideoError(path, "the file is empty (0 bytes)")


def _decoded(container: Any, stream: Any) -> Iterator[tuple[Any, str]]:
  """(frame, "") for each frame, (None, reason) for what could not be read.

  One damaged packet in a long video is passed over, as players do; the caller judges whether enough is left.
  """
  import av

  stream.thread_count = 1  # clips are decoded side by side in worker processes; and the result is repeatable
  packets = container.demux(stream)
  while True:
    try:
      packet = next(packets, None)
    except (av.error.FFmpegError, OSError) as error:  # the container itself ends here
      yield None, _words(error)
      return
    if packet is None:
      return
    try:
      for frame in packet.decode():
        yield frame, ""
    except av.error.FFmpegError as error:
      yield None, _words(error)


def _length(container: Any, stream: Any) -> float:
  """Seconds that the container promises; infinite where it does not say."""
  if stream.duration and stream.time_base:
    return float(stream.duration * stream.time_base)
  return container.duration / 1_000_000 if container.duration else float("inf")


def _promised_frames(container: Any, stream: Any) -> int:
  """Frames that the container says it holds; 0 where it does not say."""
  promises = [stream.frames] if stream.frames else []
  rate = stream.average_rate
  if rate and stream.duration and stream.time_base:
    promises.append(int(stream.duration * stream.time_base * rate))
  elif rate and container.duration and len(container.streams) == 1:  # sound may outlast the pictures
    promises.append(int(Fraction(container.duration, 1_000_000) * rate))
  # The smaller one: a clip cut out without encoding again counts frames that it never shows.
  return min(promises, default=0)


def _check_whole(path: str | os.PathLike[str], count: int, promised: int, damage: str) -> None:
  because = f" ({damage})" if damage else ""
  if not count:
    raise VideoError(path, f"no frame can be decoded{because}")
  if count < _WHOLE_SHARE * promised - 1:
    raise VideoError(path, f"cut or damaged: {count} of {promised} frames can be decoded{because}")
  if damage and not promised:
    raise VideoError(path, f"damaged after {count} frames{because}")


def _upright(frame: np.ndarray, degrees: int) -> np.ndarray:
  """Phones store a turned picture and the angle (counter-clockwise) that puts it right."""
  return np.rot90(frame, round(degrees / 90) % 4) if degrees else frame


def _words(error: Exception) -> str:
  return getattr(error, "strerror", None) or str(error) or type(error).__name__


def encode_h264(
  path: str | os.PathLike[str], frames: np.ndarray, fps: int, *, quantiser: int = 18, keyframe_every: int = 12
) -> None:
  """Writes uint8 RGB [T, H, W, 3] as an H.264 mp4: the same frames give the same bytes (of one x264).

  quantiser: x264's constant quantiser, 0 (lossless) to 51. keyframe_every: 1 codes each frame by itself.
  The file appears under its name only when it is whole. Raises ValueError unless T >= 1 and H, W are even.
  """
  import av

  if frames.ndim != 4 or frames.shape[3] != 3 or not len(frames) or any(n % 2 for n in frames.shape[1:3]):
    raise ValueError(f"frames {frames.shape}: expected [T, H, W, 3] with T >= 1 and even H and W")
  exact = {"fflags": "+bitexact"}  # leaves the library's version out of the file
  with (
    files.whole(pathlib.Path(path)) as temporary,
    av.open(os.fspath(temporary), "w", format="mp4", container_options=exact) as container,
  ):
    stream = container.add_stream("libx264", rate=fps)
    stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
    stream.thread_count = 1  # several threads split a frame differently on each machine
    stream.options = {
      "preset": "veryfast",
      "qp": str(quantiser),
      "g": str(keyframe_every),
      "x264-params": "threads=1",
      "flags": "+bitexact",
    }
    converter = av.video.reformatter.VideoReformatter()
    for frame in frames:
      picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
      container.mux(stream.encode(converter.reformat(picture, format="yuv420p", threads=1)))
    container.mux(stream.encode())
