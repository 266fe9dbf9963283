"""Video files to frames, and back: the one decoder that every corpus is built with."""

import contextlib
import dataclasses
import functools
import itertools
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from clipvip_jax.utils import atomic_write
from clipvip_jax.utils.errors import UserError

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
    pictures = _pictures(path, start, end, seek=seek)
    try:
      first = next(pictures, None)
    except VideoError:
      if not seek:
        raise
      continue
    if first is not None and (not seek or first.seconds <= (start or 0)):
      yield from itertools.chain([first], pictures)
      return


@dataclasses.dataclass
class _Read:
  """What was decoded so far: pictures, times in seconds, the first fault, and seconds without pictures that it left."""

  step: float
  count: int = 0
  until: float = 0.0
  holes: float = 0.0
  damage: str = ""


def _pictures(path: str | os.PathLike[str], start: float | None, end: float | None, *, seek: bool) -> Iterator[Picture]:
  import av  # here, so that training processes, which read stored frames, start without FFmpeg

  with _opened(path) as (container, stream):
    if seek and start:
      _seek(container, start)
    read = _Read(float(1 / stream.average_rate) if stream.average_rate else 0.04)
    converter, size = av.video.reformatter.VideoReformatter(), dict[str, int]()

    def picture(seconds, frame, until):
      before = max(0.0, seconds - (start or 0.0)) if not read.count else 0.0
      gap = until - max(seconds + read.step, start or 0.0)
      read.holes += before + (gap if gap > read.step else 0.0)
      read.count, read.until = read.count + 1, until
      return Picture(seconds, max(0.0, until - seconds), functools.partial(_rgb, converter, frame, size))

    # How long a picture is shown is known when the next is due: what a file says of it is often a guess.
    waiting = None
    for seconds, frame in _timed(container, stream, read):
      size.update(size or {"width": frame.width, "height": frame.height})  # a stream may change its size midway
      if waiting is not None:
        yield picture(*waiting, seconds)
      waiting = seconds, frame
      if end is not None and seconds >= end:
        waiting = None
        break
    if waiting is not None:
      yield picture(*waiting, waiting[0] + _shown_for(waiting[1], read.step))
    if start or end is not None:
      _check_part(path, read, start or 0.0, end, _length(container, stream))
    else:
      _check_whole(path, read, _promised_frames(container, stream, read))


# Containers whose time stamps after a seek are not those of a reading from the start.
_NO_SEEK = ("mpeg", "mpegvideo", "h264", "hevc", "m4v")
_JUMP = 1.0  # seconds by which time stamps may go back before a file counts as several behind one another
_FAR = 1e9  # seconds: no video is as long


def _seek(container: Any, start: float) -> None:
  import av

  if container.format.name not in _NO_SEEK:
    with contextlib.suppress(av.error.FFmpegError):
      container.seek(round(min(start, _FAR) * av.time_base) + (container.start_time or 0))


def _timed(container: Any, stream: Any, read: _Read) -> Iterator[tuple[float, Any]]:
  """(seconds since the container's start, frame), which never go back; notes the first fault."""
  import av

  begins = (container.start_time or 0) / av.time_base
  last = -read.step
  for frame, problem in _decoded(container, stream):
    read.damage = read.damage or problem
    if frame is None:
      continue
    seconds = last + read.step if frame.time is None else frame.time - begins
    if seconds < last - _JUMP:
      begins -= last + read.step - seconds
      seconds = last + read.step
    last = max(seconds, last)
    yield last, frame


def _shown_for(frame: Any, step: float) -> float:
  return float(frame.duration * frame.time_base) if frame.duration and frame.time_base else step


def _check_part(path: str | os.PathLike[str], read: _Read, start: float, end: float | None, length: float) -> None:
  """Refuses a part of which too much is gone: behind the last picture, or between pictures where there was a fault."""
  until = min(length, float("inf") if end is None else end)
  until = read.until if until == float("inf") else until
  wanted = until - start
  gone = max(0.0, until - read.until) + (read.holes if read.damage else 0.0)
  if wanted > 0 and gone > (1 - _WHOLE_SHARE) * wanted + 2 * read.step:
    because = f" ({read.damage})" if read.damage else ""
    raise VideoError(path, f"cut or damaged: {max(0.0, wanted - gone):.1f} of {wanted:.1f} s can be decoded{because}")


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
    container = av.open(f"file:{os.fspath(path)}")  # else a colon in a name stands for a protocol
  except (av.error.FFmpegError, OSError) as error:
    raise VideoError(path, f"not a video, or cut before its index ({_words(error)})") from None
  with container:
    cover = av.stream.Disposition.attached_pic  # the picture of an album
    streams = [stream for stream in container.streams.video if not stream.disposition & cover]
    if not streams:
      raise VideoError(path, "has no video stream")
    yield container, streams[0]


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
  """Seconds that the container promises of the pictures; infinite where it does not say."""
  if stream.duration and stream.time_base:
    return float(stream.duration * stream.time_base)
  if not container.duration or len(container.streams) > 1:  # sound may outlast the pictures
    return float("inf")
  # Matroska counts from zero, the others from the first time stamp.
  before = container.start_time or 0 if "matroska" in container.format.name else 0
  return (container.duration - before) / 1_000_000


def _promised_frames(container: Any, stream: Any, read: _Read) -> int:
  """Frames that the container says it holds; 0 where it does not say."""
  length = _length(container, stream)
  if not stream.frames and not read.damage and read.until >= _WHOLE_SHARE * length:
    return read.count  # to its end without a fault; where the rate varies, duration and rate give no number of frames
  promises = [stream.frames] if stream.frames else []
  if stream.average_rate and length < float("inf"):
    promises.append(int(length * stream.average_rate))
  # The smaller one: a clip cut out without encoding again counts frames that it never shows.
  return min(promises, default=0)


def _check_whole(path: str | os.PathLike[str], read: _Read, promised: int) -> None:
  because = f" ({read.damage})" if read.damage else ""
  if not read.count:
    raise VideoError(path, f"no frame can be decoded{because}")
  if read.count < _WHOLE_SHARE * promised - 1:
    raise VideoError(path, f"cut or damaged: {read.count} of {promised} frames can be decoded{because}")
  if read.damage and not promised:
    raise VideoError(path, f"damaged after {read.count} frames{because}")


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
    atomic_write.atomic_path(pathlib.Path(path)) as temporary,
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
