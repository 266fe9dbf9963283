"""Coded frames of a video file, on one clock."""

import collections
from collections.abc import Iterator
from typing import TYPE_CHECKING

from clipvip_jax.input_pipeline.ffmpeg_errors import error_reason, logged_error
from clipvip_jax.input_pipeline.video_checks import DecodeStats, has_flag

if TYPE_CHECKING:
  from av import Packet
  from av.container import InputContainer
  from av.video.stream import VideoStream

# Larger steps in time start another, concatenated recording; forward ones in formats whose clock may jump, such as
# MPEG-TS, with FFmpeg's threshold.
_MAX_BACKWARD_SECONDS, _MAX_FORWARD_SECONDS = 1.0, 10.0
_MAX_STRAY_PACKETS = 3  # a step that is taken back after as many packets is a corrupt time stamp


def read_packets(
  container: "InputContainer", stream: "VideoStream", stats: DecodeStats, origin: float
) -> Iterator["Packet"]:
  """Yields the packets of a video stream; joins concatenated recordings, each of which has its own clock.

  Args:
    container: an open file.
    stream: its video stream.
    stats: packets of all streams, and errors, are counted here.
    origin: start of the container in seconds of its clock.
  """
  import av

  clock, ticks = _Clock(container, stream, stats.frame_interval), dict[int, float]()
  packets = container.demux()
  while True:
    with av.logging.Capture() as messages:
      try:
        packet = next(packets, None)
      except (av.error.FFmpegError, OSError) as error:  # the container itself cannot be read any further
        stats.add_error(error_reason(error))
        stats.unreadable = stats.at_end = True
        return
    if messages:
      stats.add_error(logged_error(messages))
    if packet is None:
      stats.at_end = True
      return
    index = packet.stream.index  # that of the last packets, which flush decoders, is wrong
    if index not in ticks:
      ticks[index] = float(packet.stream.time_base or 0)
    if index == stream.index:
      clock.join(packet)
    stats.add_packet(packet, ticks[index], origin, is_video=index == stream.index)
    if index == stream.index:
      yield packet


class _Clock:
  """Moves the time stamps of concatenated recordings so that each continues where the one before it ends."""

  def __init__(self, container: "InputContainer", stream: "VideoStream", frame_interval: float):
    self._tick = float(stream.time_base or 0)
    self._max_step = _MAX_FORWARD_SECONDS if has_flag(container, "ts_discont") else float("inf")
    self._interval = round(frame_interval / self._tick) if self._tick else 0
    self._offset = 0
    self._history: collections.deque[tuple[int, int]] = collections.deque(maxlen=_MAX_STRAY_PACKETS + 1)

  def join(self, packet: "Packet") -> None:
    """Changes the time stamps of the next packet."""
    dts, tick = packet.dts, self._tick
    if dts is None:
      return
    last = self._history[-1][0] if self._history else dts
    if not -_MAX_BACKWARD_SECONDS <= (dts - last) * tick <= self._max_step:
      # The step back after a corrupt time stamp, or else another recording.
      earlier = [offset for last, offset in self._history if 0 < (dts - last) * tick <= _MAX_BACKWARD_SECONDS]
      self._offset = earlier[-1] if earlier else self._offset + last - dts + self._interval
    self._history.append((dts, self._offset))
    if self._offset:
      packet.dts = dts + self._offset
      packet.pts = None if packet.pts is None else packet.pts + self._offset
