"""Completeness checks for decoded videos: reject truncated and corrupt files."""

import dataclasses
import os
import pathlib
from typing import TYPE_CHECKING

from clipvip_jax.input_pipeline.media_error import NO_SUCH_FILE, MediaError

if TYPE_CHECKING:
  from av.container import InputContainer
  from av.video.stream import VideoStream

# Fraction of the frames in a container's header that must be decodable. Below 1, because containers count frames that
# an edit list hides, and round durations.
_MIN_DECODED = 0.9


@dataclasses.dataclass
class DecodeStats:
  """Statistics of the frames decoded so far. Times are in seconds.

  Attributes:
    frame_interval: between two frames at the stream's average rate.
    num_frames: decoded frames.
    end: end of the last decoded frame.
    missing: total length of the gaps between frames.
    first_error: reason of the first packet that could not be decoded; "" for none.
  """

  frame_interval: float
  num_frames: int = 0
  end: float = 0.0
  missing: float = 0.0
  first_error: str = ""

  def add_frame(self, begin: float, end: float, clip_start: float) -> None:
    """Counts a frame shown from `begin` to `end` of a clip that starts at `clip_start`."""
    before = 0.0 if self.num_frames else max(0.0, begin - clip_start)
    gap = end - max(begin + self.frame_interval, clip_start)
    self.missing += before + (gap if gap > self.frame_interval else 0.0)
    self.num_frames, self.end = self.num_frames + 1, end

  def add_error(self, reason: str) -> None:
    """Keeps the first reason that is not ""."""
    self.first_error = self.first_error or reason

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
  path: str | os.PathLike[str], stats: DecodeStats, container: "InputContainer", stream: "VideoStream"
) -> None:
  """Raises MediaError if a fully decoded file has fewer frames than its container promises."""
  promised = _promised_frames(stats, container, stream)
  if not stats.num_frames:
    raise MediaError(path, f"no frame can be decoded{stats.suffix}")
  if stats.num_frames < _MIN_DECODED * promised - 1:
    raise MediaError(
      path, f"truncated or corrupt: {stats.num_frames} of {promised} frames can be decoded{stats.suffix}"
    )
  if stats.first_error and not promised:
    raise MediaError(path, f"corrupt after {stats.num_frames} frames{stats.suffix}")


def check_time_range(
  path: str | os.PathLike[str],
  stats: DecodeStats,
  start: float,
  end: float | None,
  container: "InputContainer",
  stream: "VideoStream",
) -> None:
  """Raises MediaError if too much of the range `start` to `end` (None: the end of the file), in seconds, is missing.

  Counts what is missing after the last frame, and, if decoding failed anywhere, between frames.
  """
  limit = min(_promised_seconds(container, stream), float("inf") if end is None else end)
  limit = stats.end if limit == float("inf") else limit
  requested = limit - start
  missing = max(0.0, limit - stats.end) + (stats.missing if stats.first_error else 0.0)
  if requested > 0 and missing > (1 - _MIN_DECODED) * requested + 2 * stats.frame_interval:
    decoded = max(0.0, requested - missing)
    raise MediaError(path, f"truncated or corrupt: {decoded:.1f} of {requested:.1f} s can be decoded{stats.suffix}")


def _promised_seconds(container: "InputContainer", stream: "VideoStream") -> float:
  """Returns the duration of the video stream by the container's header; infinity if it has none."""
  if stream.duration and stream.time_base:
    return float(stream.duration * stream.time_base)
  if not container.duration or len(container.streams) > 1:  # the audio may be longer than the video
    return float("inf")
  # Matroska counts from zero, other containers from the first time stamp.
  offset = container.start_time or 0 if "matroska" in container.format.name else 0
  return (container.duration - offset) / 1_000_000


def _promised_frames(stats: DecodeStats, container: "InputContainer", stream: "VideoStream") -> int:
  """Returns the number of frames by the container's header; 0 if unknown."""
  seconds = _promised_seconds(container, stream)
  if not stream.frames and not stats.first_error and stats.end >= _MIN_DECODED * seconds:
    # Decoded to the end without errors. With a variable frame rate, duration times rate is not the number of frames.
    return stats.num_frames
  promises = [stream.frames] if stream.frames else []
  if stream.average_rate and seconds < float("inf"):
    promises.append(int(seconds * stream.average_rate))
  # The minimum: a clip cut without re-encoding counts frames that it never shows.
  return min(promises, default=0)
