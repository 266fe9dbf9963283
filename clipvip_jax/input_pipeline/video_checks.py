"""Completeness checks for decoded videos: reject truncated and corrupt files, note what is tolerated.

A file is judged by the time that its pictures cover, not by their number: frame rates vary, and files list frames that
are never shown.
"""

import dataclasses
import math
import os
import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from clipvip_jax.input_pipeline.container_extent import Extent, read_extent
from clipvip_jax.input_pipeline.container_structure import StructureCheck
from clipvip_jax.input_pipeline.media_error import NO_SUCH_FILE, MediaError
from clipvip_jax.input_pipeline.media_notes import add_note
from clipvip_jax.input_pipeline.skipped_bytes import SkippedBytes

if TYPE_CHECKING:
  from av import Packet
  from av.container import InputContainer
  from av.video.stream import VideoStream

# Notes on files that are accepted.
TRUNCATED = "truncated"  # less than a tenth is missing at the end
CORRUPT = "corrupt"  # less than a tenth is corrupt
UNVERIFIABLE = "unverifiable"  # the format does not say where the file ends

_MAX_MISSING = 0.1  # fraction of the time
_ROUNDING = 0.01  # fraction by which the durations of complete files are too long
_SHARED_DURATION = ("asf", "asf_o")  # each stream has the duration of the container
_CHUNK = 2**20  # bytes
_MIN_PADDING, _MAX_FRAME_BYTES = 2**16, 2**22  # of zeros after the last coded frame, which FFmpeg reports; of a frame
_MAX_DELAY = 20  # frames that a decoder may hold back: an error shows in one of the next frames


@dataclasses.dataclass
class DecodeStats:
  """Statistics of a file that is decoded. Times are in seconds from the container's start.

  Attributes:
    frame_interval: between two frames at the stream's average rate.
    num_frames: decoded frames.
    position: of the last coded frame in bytes, if the container's structure is checked.
    num_packets: coded frames that were read, including those that an edit list hides.
    end: end of the last decoded frame.
    missing: total length of the gaps between frames after an error.
    corrupt: total length of corrupt frames.
    read_until: end of the last coded frame that is to be shown.
    at_end: whether the file was read to its end.
    unreadable: whether an error of the container ended it.
    first_error: the first reason for an error; "" for none.
    structure: reveals data that are skipped without an error; None for a container without a structure to check.
    skipped: likewise, for other containers; None for those with an index.
    file_end: returns the end of the last coded frame or sound of all streams.
  """

  frame_interval: float
  num_frames: int = 0
  position: int = 0
  num_packets: int = 0
  end: float = 0.0
  missing: float = 0.0
  corrupt: float = 0.0
  read_until: float = 0.0
  at_end: bool = False
  unreadable: bool = False
  first_error: str = ""
  structure: StructureCheck | None = None
  skipped: SkippedBytes | None = None
  file_end: Callable[[], float] = float  # zero
  _last_begin: float = dataclasses.field(default=0.0, repr=False)
  _suspect_frames: int = dataclasses.field(default=0, repr=False)

  def add_packet(self, packet: "Packet", tick: float, origin: float) -> None:
    """Counts a packet of the video.

    Args:
      packet: the packet.
      tick: unit of its time stamps in seconds.
      origin: start of the container in seconds of its own clock.
    """
    if packet.is_corrupt:  # data before it are missing
      self._suspect_frames = _MAX_DELAY
    if self.skipped is not None and packet.dts is not None and self.skipped.fill_gap(packet.dts * tick - origin):
      self._suspect_frames = _MAX_DELAY
    if self.structure is not None and (position := packet.pos) is not None and position >= 0:
      self.position = position
      self.add_error(self.structure.error_at(position))
    if packet.size:
      self.num_packets += 1
    begin = packet.pts
    if begin is None:
      begin = packet.dts
    if begin is None or packet.is_discard:
      return
    # Of the last picture in order: durations of the others may be those between times of decoding, across a pause.
    if begin * tick - origin >= self._last_begin:
      self._last_begin = begin * tick - origin
      self.read_until = self._last_begin + (packet.duration or 0) * tick

  def add_frame(self, begin: float, end: float, clip_start: float, *, corrupt: bool = False) -> None:
    """Counts a frame shown from `begin` to `end` of a clip that starts at `clip_start`."""
    if corrupt or self._suspect_frames:
      before = 0.0 if self.num_frames else max(0.0, begin - clip_start)
      gap = end - max(begin + self.frame_interval, clip_start)
      # Frames of a variable rate may be shown for long: a gap counts if there is an error near it.
      lost = gap if self._suspect_frames and gap > self.frame_interval else 0.0
      self.missing += lost + (before if self._suspect_frames else 0.0)
      self.corrupt += max(0.0, end - max(begin, clip_start) - lost) if corrupt else 0.0
      self._suspect_frames = max(0, self._suspect_frames - 1)
    self.num_frames += 1
    self.end = end

  def add_corrupt_time(self) -> None:
    """Records a time stamp that those after it show to be wrong: what was read ends earlier than it seemed."""
    self.add_error("a corrupt time stamp")
    self.read_until = self._last_begin = 0.0

  def end_file(self) -> None:
    """Records that the file was read to its end."""
    self.at_end = True
    if self.structure:
      self.add_error(self.structure.error_at_end())

  def add_error(self, reason: str) -> None:
    """Keeps the first reason that is not ""; a gap between the next frames counts as missing."""
    if not reason:
      return
    self.first_error = self.first_error or reason
    self._suspect_frames = _MAX_DELAY

  @property
  def suffix(self) -> str:
    """The first error in parentheses, to append to a message."""
    return f" ({self.first_error})" if self.first_error else ""


def check_readable(path: str | os.PathLike[str]) -> None:
  """Raises MediaError unless `path` is a file that is not empty."""
  file = pathlib.Path(path)
  if not file.exists():
    raise MediaError(path, NO_SUCH_FILE)
  if not file.is_file():
    raise MediaError(path, "not a file")
  if not file.stat().st_size:
    raise MediaError(path, "the file is empty (0 bytes)")


def check_video(
  path: str | os.PathLike[str],
  stats: DecodeStats,
  container: "InputContainer",
  stream: "VideoStream",
  start: float = 0.0,
  end: float | None = None,
) -> None:
  """Checks a decoded file, or its range `start` to `end` in seconds; notes what is tolerated.

  An `end` after the end of the video means up to its end.

  Raises:
    MediaError: more than a tenth of the time is missing or corrupt, or the file is truncated by an unknown amount.
  """
  if not stats.num_frames and not start and end is None:
    raise MediaError(path, f"no frame can be decoded{stats.suffix}")
  limit = math.inf if end is None else end
  decoded = max(stats.end, stats.read_until) if stats.at_end else limit
  tail = _missing_tail(path, stats, container, stream, limit) if stats.at_end else 0.0
  requested = min(limit, decoded + tail) - start
  missing = tail + max(0.0, min(limit, decoded) - stats.end) + stats.missing + stats.corrupt
  if requested > 0 and missing > _MAX_MISSING * requested + 2 * stats.frame_interval:
    good = max(0.0, requested - missing)
    raise MediaError(path, f"truncated or corrupt: {good:.1f} of {requested:.1f} s can be decoded{stats.suffix}")
  if stats.first_error or stats.missing or stats.corrupt:
    add_note(CORRUPT)


def _missing_tail(
  path: str | os.PathLike[str],
  stats: DecodeStats,
  container: "InputContainer",
  stream: "VideoStream",
  limit: float,
) -> float:
  """Returns the seconds before `limit` that a file lacks at its end; notes a file whose end is unknown.

  Raises:
    MediaError: the file is truncated by an unknown amount before `limit`.
  """
  reached = max(stats.end, stats.read_until)
  if limit <= reached:
    return 0.0
  extent = read_extent(path, container.format.name)
  truncated = extent.truncated or (stats.unreadable and not _is_zero_after(path, stats.position))
  promised = _promised_seconds(container, stream, extent)
  tolerance = max(2 * stats.frame_interval, _ROUNDING * reached)
  own_duration = stream.duration and container.format.name not in _SHARED_DURATION
  if not own_duration and (limit < math.inf or reached + tolerance < promised < math.inf):
    # Without a duration of the stream, the file is complete if any stream reaches the container's duration.
    reached = max(reached, stats.file_end())
  if limit <= reached:
    return 0.0
  if not truncated and not extent.verifiable:
    add_note(UNVERIFIABLE)
  if not truncated and extent.states_duration and _all_listed_read(stats, stream):
    return 0.0
  if truncated and promised == math.inf:
    if limit <= reached + 2 * stats.frame_interval:
      return 0.0
    cause = f": an element ends at byte {extent.end}, the file at byte {extent.size}" if extent.truncated else ""
    raise MediaError(path, f"truncated or corrupt after {reached:.1f} s{cause}{stats.suffix}")
  tail = max(0.0, min(promised, limit) - reached) if promised < math.inf else 0.0
  if truncated or tail > tolerance:
    add_note(TRUNCATED)
  return tail


def _is_zero_after(path: str | os.PathLike[str], position: int) -> bool:
  """Returns whether a file holds only zeros after the coded frame at a position, as recorders allocate files."""
  if not position:
    return False
  with pathlib.Path(path).open("rb") as file:
    begin, zeros_from = file.seek(position), position
    while chunk := file.read(_CHUNK):
      zeros_from = begin + len(chunk.rstrip(b"\0")) if chunk.strip(b"\0") else zeros_from
      begin += len(chunk)
  return zeros_from - position <= _MAX_FRAME_BYTES and begin - zeros_from >= _MIN_PADDING


def has_flag(container: "InputContainer", name: str) -> bool:
  """Returns whether a container's format has a flag of `av.format.Flags`."""
  from av.format import Flags

  return bool(Flags(container.format.flags) & Flags[name])


def _promised_seconds(container: "InputContainer", stream: "VideoStream", extent: Extent) -> float:
  """Returns the end of the video, or of all streams, by the container's header; infinity if it has none."""
  if has_flag(container, "ts_discont") or has_flag(container, "no_timestamps") or not extent.states_duration:
    return math.inf  # FFmpeg estimates the duration from what is left of the file
  # FFmpeg reduces the duration of a truncated AVI, which counts frames of constant length.
  duration = stream.frames if container.format.name == "avi" else stream.duration
  if duration and stream.time_base:
    return float(duration * stream.time_base)
  if not container.duration:
    return math.inf
  # Matroska, FLV and NUT count from zero, other containers from the first time stamp.
  offset = container.start_time or 0 if container.format.name in ("matroska,webm", "flv", "nut") else 0
  return (container.duration - offset) / 1_000_000


def _all_listed_read(stats: DecodeStats, stream: "VideoStream") -> bool:
  """Returns whether all coded frames in the container's index were read, whatever duration its header has."""
  listed = min(stream.frames, len(stream.index_entries) or stream.frames)  # AVI counts empty frames
  return bool(listed) and stats.num_packets >= listed
