"""Coded frames of a video file, on one clock."""

import collections
from collections.abc import Iterator
from typing import TYPE_CHECKING

from clipvip_jax.input_pipeline.ffmpeg_errors import capture_log, error_reason, logged_error
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

  clock = _Clock(container, stats.frame_interval)
  packets = container.demux()
  while True:
    with capture_log() as messages:
      try:
        packet = next(packets, None)
      except (av.error.FFmpegError, OSError) as error:  # the container itself cannot be read any further
        stats.add_error(error_reason(error))
        stats.unreadable = stats.at_end = True
        return
    stats.add_error(logged_error(messages))
    if packet is None:
      stats.at_end = True
      return
    is_video = packet.stream.index == stream.index  # the last packets, which flush decoders, have index 0
    if is_video:
      clock.join(packet)
    stats.add_packet(packet, origin, is_video=is_video)
    if is_video:
      yield packet


class _Clock:
  """Moves the time stamps of concatenated recordings so that each continues where the one before it ends."""

  def __init__(self, container: "InputContainer", frame_interval: float):
    self._max_step = _MAX_FORWARD_SECONDS if has_flag(container, "ts_discont") else float("inf")
    self._frame_interval = frame_interval
    self._offset = 0
    self._history: collections.deque[tuple[int, int]] = collections.deque(maxlen=_MAX_STRAY_PACKETS + 1)

  def join(self, packet: "Packet") -> None:
    """Changes the time stamps of the next packet."""
    if packet.dts is None or not packet.time_base:
      return
    dts, base = packet.dts, packet.time_base
    last = self._history[-1][0] if self._history else dts
    if not -_MAX_BACKWARD_SECONDS <= (dts - last) * base <= self._max_step:
      # The step back after a corrupt time stamp, or else another recording.
      earlier = [offset for last, offset in self._history if 0 < (dts - last) * base <= _MAX_BACKWARD_SECONDS]
      self._offset = earlier[-1] if earlier else self._offset + last - dts + round(self._frame_interval / base)
    self._history.append((dts, self._offset))
    packet.dts = dts + self._offset
    packet.pts = None if packet.pts is None else packet.pts + self._offset
