"""Video decoding with PyAV (FFmpeg)."""

import contextlib
import functools
import heapq
import itertools
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np
from jaxtyping import UInt8

from clipvip_jax.input_pipeline import multi_image_files, video_checks
from clipvip_jax.input_pipeline.container_structure import open_structure
from clipvip_jax.input_pipeline.deinterlacing import deinterlace
from clipvip_jax.input_pipeline.ffmpeg_errors import error_reason, take_error
from clipvip_jax.input_pipeline.frame_conversion import FrameConverter
from clipvip_jax.input_pipeline.media_error import MediaError
from clipvip_jax.input_pipeline.media_notes import add_note, collect_notes
from clipvip_jax.input_pipeline.packet_reader import clock_jumps, last_packet_end, read_packets
from clipvip_jax.input_pipeline.skipped_bytes import SkippedBytes
from clipvip_jax.input_pipeline.video_checks import DecodeStats
from clipvip_jax.input_pipeline.video_container import open_video, stream_decoder
from clipvip_jax.input_pipeline.zero_runs import has_zero_run, is_dense

if TYPE_CHECKING:  # imported where needed: training reads stored JPEGs and starts without FFmpeg
  from av import VideoFrame
  from av.container import InputContainer
  from av.video.stream import VideoStream

# Containers whose time stamps after a seek differ from those of sequential decoding.
_NO_SEEK = ("mpeg", "mpegvideo", "h261", "h263", "h264", "hevc", "m4v")
# Codecs whose frames have times of decoding alone in AVI: FFmpeg knows when those of other codecs are shown.
_UNTIMED_IN_AVI = ("h264", "hevc", "vvc")
_MAX_SEEK_SECONDS = 1e9
_DEFAULT_FRAME_SECONDS = 0.04
_MAX_REORDERED = 3  # frames by which a time may step back: decoders may output frames out of order


class Picture(NamedTuple):
  """A decoded frame before conversion to RGB, which costs as much as decoding.

  Attributes:
    seconds: presentation time from the container's start.
    shown_for: seconds until the next frame.
    rgb: returns uint8 [H, W, 3] as a player shows it; see `FrameConverter.to_rgb`.
  """

  seconds: float
  shown_for: float
  rgb: Callable[[], UInt8[np.ndarray, "h w 3"]]


def iterate_pictures(
  path: str | os.PathLike[str], start: float | None = None, end: float | None = None
) -> Iterator[Picture]:
  """Yields the frames of the video stream that a player shows, of a file or a time range of it.

  Interlaced frames are deinterlaced. No other file is opened. A truncated file raises MediaError after its last frame:
  frames are valid only once the iterator is exhausted.

  Args:
    path: a video file, or an animated or other image that FFmpeg or `multi_image_files` decodes.
    start: seconds; seeks to the last key frame before it.
    end: seconds, exclusive.

  Raises:
    MediaError: the file is missing, empty, truncated or corrupt, or not a video; or it ends before `end` although its
      container promises more.
  """
  video_checks.check_readable(path)
  if multi_image_files.is_for_pillow(path):
    for seconds, shown_for, rgb in multi_image_files.iterate_images(path):
      if end is None or seconds < end:
        yield Picture(seconds, shown_for, functools.partial(np.asarray, rgb))
    return
  # Without a usable index, a seek may end after `start`: then decode sequentially from the beginning.
  for seek in [True, False] if start else [False]:
    pictures = _decode_pictures(path, start, end, seek=seek)
    with collect_notes() as notes:  # those of an attempt that is given up do not count
      try:
        first = next(pictures, None)
      except MediaError:
        if not seek:
          raise
        continue
    if first is not None and (not seek or first.seconds <= (start or 0)):
      for note in notes:
        add_note(note)
      yield from itertools.chain([first], pictures)
      return


def frame_times(path: str | os.PathLike[str]) -> list[float]:
  """Returns the times of a video's coded frames; see `frame_times_and_end`."""
  return frame_times_and_end(path)[0]


def frame_times_and_end(path: str | os.PathLike[str]) -> tuple[list[float], float]:
  """Returns the times of a video's coded frames in ascending order, and the end of the last one, without decoding them.

  They are in seconds from the container's start, on one clock, as those of `iterate_pictures`. They may differ from
  these if frames are corrupt or coded as two fields, or if the file has no times; for an image, the list is empty.

  Raises:
    MediaError: the file cannot be opened, or has no video stream.
  """
  import av

  spans = list[tuple[float, float]]()
  video_checks.check_readable(path)
  if multi_image_files.is_for_pillow(path):
    return [], 0.0
  with open_video(path) as (container, stream):
    origin, interval = (container.start_time or 0) / av.time_base, _average_interval(stream)
    has_times = not _is_untimed(container, stream)
    for packet in read_packets(container, stream, DecodeStats(interval), origin, []):
      if packet.size and not packet.is_discard:  # an edit list hides frames
        stamp = packet.pts if has_times and packet.pts is not None else packet.dts
        begin = float(len(spans)) if stamp is None else _since(origin, float(stamp * packet.time_base))
        spans.append((begin, float(packet.duration * packet.time_base) if packet.duration else interval))
  spans.sort()
  return [begin for begin, _ in spans], sum(spans[-1]) if spans else 0.0


def _average_interval(stream: "VideoStream") -> float:
  return float(1 / stream.average_rate) if stream.average_rate else _DEFAULT_FRAME_SECONDS


def _since(origin: float, seconds: float) -> float:
  """Returns the time from a container's start, which FFmpeg rounds to microseconds."""
  return round(seconds - origin, 6) if origin else seconds


def _decode_pictures(
  path: str | os.PathLike[str], start: float | None, end: float | None, *, seek: bool
) -> Iterator[Picture]:
  with (
    open_video(path) as (container, stream),
    open_structure(path, container.format.name) as structure,
    _explain_errors(path),
  ):
    if seek and start:
      _seek(path, container, stream, start)
    interval = _average_interval(stream)
    has_index = container.format.name.startswith("mov")
    skipped = None if structure or has_index else SkippedBytes(interval)
    file_end = functools.partial(last_packet_end, path)
    stats = DecodeStats(interval, structure=structure, skipped=skipped, file_end=file_end)
    converter, empty_alpha = cast("FrameConverter | None", None), container.format.name != "avi"

    def picture(seconds: float, frame: "VideoFrame", next_seconds: float) -> Picture:
      nonlocal converter
      if converter is None:
        converter = FrameConverter(frame.width, frame.height, empty_alpha=empty_alpha, path=path)
        converter.set_orientation(frame)
      return Picture(seconds, max(0.0, next_seconds - seconds), functools.partial(converter.to_rgb, frame))

    # A frame's duration is the time until the next one; durations in files are often wrong.
    previous = None
    for seconds, frame in deinterlace(_timed_frames(container, stream, stats, start or 0.0, end)):
      if previous is not None:
        yield picture(*previous, seconds)
      previous = seconds, frame
      if end is not None and seconds >= end:
        previous = None
        break
    if previous is not None:
      yield picture(*previous, previous[0] + _frame_seconds(previous[1], stats.frame_interval))
    video_checks.check_video(path, stats, container, stream, start or 0.0, end)


@contextlib.contextmanager
def _explain_errors(path: str | os.PathLike[str]) -> Iterator[None]:
  """Converts PyAV's errors about properties of a stream that it does not support."""
  import av

  try:
    yield
  except (ValueError, av.error.FFmpegError) as error:
    raise MediaError(path, f"cannot be decoded ({error_reason(error)}); copy the file again, or convert it") from error


def _is_untimed(container: "InputContainer", stream: "VideoStream") -> bool:
  """Returns whether frames have times of decoding alone, so that their order decides when they are shown."""
  return container.format.name == "avi" and stream.codec.canonical_name in _UNTIMED_IN_AVI


def _seek(path: str | os.PathLike[str], container: "InputContainer", stream: "VideoStream", start: float) -> None:
  import av

  if container.format.name in _NO_SEEK:
    return
  if _is_untimed(container, stream) and stream.codec_context.has_b_frames:
    return  # which frames follow a key frame in order is unknown: it may depend on those before it
  if video_checks.has_flag(container, "ts_discont"):
    with open_video(path) as scanned:
      if clock_jumps(*scanned, start):  # time stamps do not tell the time
        return
  with contextlib.suppress(av.error.FFmpegError):
    container.seek(round(min(start, _MAX_SEEK_SECONDS) * av.time_base) + (container.start_time or 0))


def _timed_frames(
  container: "InputContainer", stream: "VideoStream", stats: DecodeStats, start: float, end: float | None
) -> Iterator[tuple[float, "VideoFrame"]]:
  """Yields (seconds from the container's start, frame) with times that never decrease, up to the first one at `end`.

  Counts the frames before `end` in `stats`. A frame is held until the next one shows whether its time is right.
  """
  import av

  origin, interval = (container.start_time or 0) / av.time_base, stats.frame_interval
  last, time, corrupt = -interval, -interval, False
  frame: VideoFrame | None = None
  for next_frame, next_corrupt in _decode_packets(container, stream, stats, origin):
    if next_frame.time is None:
      next_time = time + (_frame_seconds(frame, interval) if frame is not None else interval)
    else:
      next_time = _since(origin, next_frame.time)
    if next_time < time:
      if time - next_time > _MAX_REORDERED * interval and frame is not None:
        stats.add_corrupt_time()
        if next_time > last:  # the time of the held frame is too late
          time = min(last + interval, next_time)
      next_time = max(next_time, time)
    if frame is not None:
      if end is None or time < end:
        stats.add_frame(time, next_time, start, corrupt=corrupt)
      yield time, frame
      last = time
    time, frame, corrupt = next_time, next_frame, next_corrupt
    if end is not None and end <= time <= last + _MAX_REORDERED * interval:  # surely right: no more is read
      break
  if frame is not None:
    if end is None or time < end:
      stats.add_frame(time, time + _frame_seconds(frame, interval), start, corrupt=corrupt)
    yield time, frame


def _decode_packets(
  container: "InputContainer", stream: "VideoStream", stats: DecodeStats, origin: float
) -> Iterator[tuple["VideoFrame", bool]]:
  """Yields (frame, whether it is corrupt); records errors in `stats`.

  Skips corrupt packets, as players do; the caller decides whether enough frames remain.
  """
  import av

  decoder, codec = stream_decoder(stream), stream.codec.canonical_name
  dense, corrupt = is_dense(codec), set[int | None]()
  order: list[int] | None = [] if _is_untimed(container, stream) else None  # times of decoding, a heap
  capture = av.logging.Capture()
  messages = capture.logs
  packets = read_packets(container, stream, stats, origin, messages)
  while True:
    with capture:  # of the container and of the decoder: entering it twice for every frame would take longer
      packet = next(packets, None)
      if packet is None:
        return
      if not packet.size and packet.dts is not None:  # the picture before it is shown for longer
        continue
      try:
        frames = decoder.decode(packet)
      except av.error.FFmpegError as error:
        stats.add_error(error_reason(error))
        messages.clear()
        continue
    reason = take_error(messages) if messages else ""
    if dense and has_zero_run(bytes(packet), codec):
      reason = reason or "a run of zeros in a coded frame"
    if reason:
      stats.add_error(reason)
      corrupt.add(packet.dts if packet.pts is None else packet.pts)
    if order is not None and packet.dts is not None:
      heapq.heappush(order, packet.dts)
    for frame in frames:
      is_corrupt = frame.is_corrupt or (bool(corrupt) and frame.pts in corrupt)
      if order:  # decoders return frames in the order in which they are shown
        frame.pts = heapq.heappop(order)
      yield frame, is_corrupt


def _frame_seconds(frame: "VideoFrame", default: float) -> float:
  return float(frame.duration * frame.time_base) if frame.duration and frame.time_base else default
