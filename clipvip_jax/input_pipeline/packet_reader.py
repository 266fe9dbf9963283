"""Coded frames of a video file, on one clock."""

import collections
import contextlib
import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from clipvip_jax.input_pipeline.ffmpeg_errors import error_reason, take_error
from clipvip_jax.input_pipeline.media_error import MediaError
from clipvip_jax.input_pipeline.skipped_bytes import SkippedBytes
from clipvip_jax.input_pipeline.video_checks import DecodeStats, has_flag
from clipvip_jax.input_pipeline.video_container import open_video

if TYPE_CHECKING:
  from av import Packet
  from av.container import InputContainer
  from av.video.stream import VideoStream

# Larger steps in time start another, concatenated recording; forward ones in formats whose clock may jump, such as
# MPEG-TS, with FFmpeg's threshold.
_MAX_BACKWARD_SECONDS, _MAX_FORWARD_SECONDS = 1.0, 10.0
_MAX_STRAY_PACKETS = 3  # a step that is taken back after as many packets is a corrupt time stamp


def read_packets(
  container: "InputContainer",
  stream: "VideoStream",
  stats: DecodeStats,
  origin: float,
  messages: list[tuple[int, str, str]],
) -> Iterator["Packet"]:
  """Yields the packets of a video stream; joins concatenated recordings, each of which has its own clock.

  Args:
    container: an open file.
    stream: its video stream.
    stats: packets and errors are counted here.
    origin: start of the container in seconds of its clock.
    messages: of FFmpeg's log, which the caller captures while it takes packets; emptied here.
  """
  import av

  clock, tick = _Clock(container, stream, stats), float(stream.time_base or 0)
  packets = container.demux(stream) if stats.skipped is None else _counted(container, stream, stats.skipped)
  while True:
    try:
      packet = next(packets, None)
    except IndexError:  # PyAV cannot flush streams that began after the header: this is the end
      packet = None
    except (av.error.FFmpegError, OSError) as error:  # the container itself cannot be read any further
      stats.add_error(error_reason(error))
      stats.unreadable = True
      stats.end_file()
      yield av.Packet()  # an empty one: the decoder returns the frames that it holds back
      return
    if messages:
      stats.add_error(take_error(messages))
    if packet is None:
      stats.end_file()
      return
    for joined in clock.join(packet):
      stats.add_packet(joined, tick, origin)
      yield joined


def _counted(container: "InputContainer", stream: "VideoStream", skipped: SkippedBytes) -> Iterator["Packet"]:
  """Yields the packets of a stream; counts those of all streams."""
  for packet in container.demux():
    skipped.add_packet(packet)
    if packet.stream.index == stream.index:
      yield packet


def last_packet_end(path: str | os.PathLike[str]) -> float:
  """Returns the end of a file's last packet of any stream, in seconds from the container's start, without decoding."""
  import av

  until = 0.0
  with (
    contextlib.suppress(av.error.FFmpegError, OSError, IndexError, MediaError),
    open_video(path) as (container, _),
    av.logging.Capture(),
  ):
    for packet in container.demux():
      begin = packet.dts if packet.pts is None else packet.pts
      if begin is not None and packet.time_base and not packet.is_discard:
        end = float((begin + (packet.duration or 0)) * packet.time_base)
        until = max(until, end - (container.start_time or 0) / av.time_base)
  return until


def clock_jumps(container: "InputContainer", stream: "VideoStream", seconds: float) -> bool:
  """Returns whether another recording begins in the first `seconds` of a file; reads up to there."""
  import av

  tick, first, last = float(stream.time_base or 0), None, None
  with contextlib.suppress(av.error.FFmpegError, OSError, IndexError):
    for packet in container.demux(stream):
      if packet.dts is None:
        continue
      if last is not None and not -_MAX_BACKWARD_SECONDS <= (packet.dts - last) * tick <= _MAX_FORWARD_SECONDS:
        return True
      first, last = packet.dts if first is None else first, packet.dts
      if (last - first) * tick > seconds:
        break
  return False


class _Clock:
  """Moves the time stamps of concatenated recordings so that each continues where the one before it ends."""

  def __init__(self, container: "InputContainer", stream: "VideoStream", stats: DecodeStats):
    self._tick = float(stream.time_base or 0)
    self._jumps_forward = has_flag(container, "ts_discont")
    self._interval = round(stats.frame_interval / self._tick) if self._tick else 0
    self._stats = stats
    self._offset = 0
    self._max_step = _MAX_BACKWARD_SECONDS / self._tick if self._tick else 0.0
    self._history: collections.deque[tuple[int, int]] = collections.deque(maxlen=_MAX_STRAY_PACKETS + 1)
    self._held: Packet | None = None  # after a step forward in a format whose clock does not jump

  def join(self, packet: "Packet") -> Iterable["Packet"]:
    """Returns the packets up to the next one, which may be held back, with changed time stamps."""
    dts, history = packet.dts, self._history
    if not history or dts is None or self._held is not None or self._offset:
      return self._join(packet)
    if not 0 <= dts - history[-1][0] <= self._max_step:
      return self._join(packet)
    history.append((dts, 0))
    return (packet,)

  def _join(self, packet: "Packet") -> Iterator["Packet"]:
    last = self._history[-1][0] if self._history else packet.dts
    step = 0.0 if packet.dts is None or last is None else (packet.dts - last) * self._tick
    held, self._held = self._held, None
    if held is not None:
      if last is not None and packet.dts is not None and 0 <= step <= _MAX_BACKWARD_SECONDS:
        self._stats.add_error("a corrupt time stamp")
        _shift(held, last + self._interval - (held.dts or 0))
      yield self._moved(held)
    elif step > _MAX_FORWARD_SECONDS and not self._jumps_forward:
      self._held = packet
      return
    yield self._moved(packet)

  def _moved(self, packet: "Packet") -> "Packet":
    dts, tick = packet.dts, self._tick
    if dts is None:
      return packet
    last = self._history[-1][0] if self._history else dts
    step = (dts - last) * tick
    if step < -_MAX_BACKWARD_SECONDS or (step > _MAX_FORWARD_SECONDS and self._jumps_forward):
      # The step back after a corrupt time stamp, or else another recording.
      earlier = [offset for last, offset in self._history if 0 < (dts - last) * tick <= _MAX_BACKWARD_SECONDS]
      self._offset = earlier[-1] if earlier else self._offset + last - dts + self._interval
    self._history.append((dts, self._offset))
    if self._offset:
      _shift(packet, self._offset)
    return packet


def _shift(packet: "Packet", offset: int) -> None:
  packet.dts = None if packet.dts is None else packet.dts + offset
  packet.pts = None if packet.pts is None else packet.pts + offset
