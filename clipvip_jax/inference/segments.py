"""Moments of long videos: consecutive segments of equal length, each of which becomes an item of an index."""

import os
import re
from collections.abc import Sequence

from clipvip_jax.inference import index_builder
from clipvip_jax.inference.video_clip import VideoClip
from clipvip_jax.input_pipeline import read_media
from clipvip_jax.input_pipeline.media_error import MediaError
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import printable
from clipvip_jax.utils.progress import ProgressReporter
from clipvip_jax.utils.storage import PathLike

_SHORTEST, _LONGEST = 0.1, 1_000_000  # seconds


def parse_seconds(text: str) -> float:
  """Parses the length of segments, such as "10s"; raises UserError if it is something else."""
  match = re.fullmatch(r"(\d+(?:\.\d+)?)s", text, re.ASCII)
  if not match or not _SHORTEST <= float(match[1]) < _LONGEST:
    raise UserError(
      f"--segments={printable(text, 40)} is not a length of at least {_SHORTEST:g}s and below {_LONGEST}s; write"
      " seconds, such as 10s"
    )
  return float(match[1])


def split_videos(videos: Sequence[PathLike], seconds: float, threads: int) -> list[list[VideoClip]]:
  """Divides videos into segments.

  Args:
    videos: see `list_media.list_videos`.
    seconds: length of a segment. The last one of a video is 0.5 to 1.5 times as long.
    threads: that read the videos; 0: one per core.

  Returns:
    The segments of each video; one without times for images, folders of frames, and videos that cannot be read.

  Raises:
    UserError: a bucket cannot be read.
  """
  progress = ProgressReporter(len(videos), "videos measured")
  spans = read_media.map_in_threads(videos, read_media.video_seconds, threads or os.cpu_count() or 1)
  clips = []
  for video, span in spans:
    path = os.fspath(video)
    clips.append([VideoClip(path)] if span is None or isinstance(span, MediaError) else _divide(path, *span, seconds))
    progress.update(len(clips))
  return clips


def _divide(path: str, begin: float, end: float, seconds: float) -> list[VideoClip]:
  """Divides a video whose frames are displayed from `begin` to `end`."""
  count = max(1, int(end / seconds + 0.5))
  ends = [number * seconds for number in range(1, count)]
  starts = [0.0, *ends]
  ends.append(max(round(end, 3), starts[-1] + 0.001))
  clips = [
    VideoClip(path, _round(start, seconds), _round(stop, seconds))
    for start, stop in zip(starts, ends, strict=True)
    if stop > begin  # a sound track may begin earlier
  ]
  return clips or [VideoClip(path)]  # all frames at one time


def _round(time: float, seconds: float) -> float:
  """Rounds a border of segments of a length to six digits or, if these are too few for it, to milliseconds."""
  short = float(f"{time:.6g}")
  return short if abs(short - time) <= 0.01 * seconds else round(time, 3)


def part_sizes(clips: Sequence[Sequence[VideoClip]]) -> list[int]:
  """Returns `IndexLayout.part_sizes` of segments: no part crosses the border of a shard of the videos."""
  size, sizes = index_builder.PART_SIZE, list[int]()
  for start in range(0, len(clips), size):
    complete, rest = divmod(sum(map(len, clips[start : start + size])), size)
    sizes += [size] * complete + [rest] * bool(rest)
  return sizes
