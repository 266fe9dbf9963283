"""Bytes of a file that are in no packet: data that a demultiplexer skipped, as corrupt, without an error."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
  from av import Packet

_FRACTION = 0.25  # of the bytes that a gap would hold: data were lost, unlike in a pause of the pictures
_MIN_BYTES = 4096  # more than the headers between packets


class SkippedBytes:
  """Finds gaps in time in a container whose structure is not known otherwise, and which is read in order of bytes."""

  def __init__(self, frame_interval: float):
    """Creates a check; `frame_interval`: seconds between two frames at the stream's average rate."""
    self._interval = frame_interval
    self._num_bytes = 0
    self._overhead = 0  # the most bytes before a packet that were in none
    self._skipped = 0  # bytes in no packet since the last one of the video
    self._times: tuple[float, float] | None = None  # first and last decoding time of the video

  def add_packet(self, packet: "Packet") -> None:
    """Counts a packet of any stream."""
    position = packet.pos
    if position is not None and position >= 0:
      overhead = position - self._num_bytes
      if overhead > self._overhead:
        self._skipped += overhead - self._overhead if self._num_bytes else 0
        self._overhead = overhead
    self._num_bytes += packet.size

  def fill_gap(self, seconds: float) -> bool:
    """Returns whether a gap before a packet of the video, to be decoded at `seconds`, would hold the skipped bytes."""
    first, last = self._times or (seconds, seconds)
    self._times = first, seconds
    skipped, self._skipped = self._skipped, 0
    gap, elapsed = seconds - last - self._interval, last - first + self._interval
    return gap > self._interval and skipped > max(_MIN_BYTES, _FRACTION * gap * self._num_bytes / elapsed)
