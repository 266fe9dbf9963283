"""Shards of an index: consecutive parts of a list of videos that several machines embed, and their join.

A shard consists of complete parts of `index_builder`, so that the joined index equals that of a single machine. The
option --shard counts from 1, names of files and `VideoIndex.shard` from 0.
"""

import dataclasses
import os
import pathlib
import re
from collections.abc import Sequence
from typing import TypeVar

from clipvip_jax.inference import index_builder, index_tables, video_index
from clipvip_jax.inference.video_index import VideoIndex
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.json_shards import Part
from clipvip_jax.utils.log import list_first
from clipvip_jax.utils.storage import PathLike

_Path = TypeVar("_Path", bound=pathlib.PurePath)
_MAX_NAMED = 3  # missing shards that an error message names


@dataclasses.dataclass(frozen=True)
class Shard:
  """One of `count` shards; `number` is from 0 to `count` - 1."""

  number: int
  count: int

  @classmethod
  def parse(cls, text: str) -> "Shard":
    """Parses I/N, with I from 1 to N; raises UserError if it is something else."""
    part = Part.parse(text)
    return cls(part.index - 1, part.count)

  @property
  def option(self) -> str:
    """The option that embeds it."""
    return f"--shard={self.number + 1}/{self.count}"

  def select(self, videos: Sequence[PathLike]) -> Sequence[PathLike]:
    """Returns the videos of the shard.

    Raises:
      UserError: there are more shards than parts.
    """
    num_parts = -(-len(videos) // index_builder.PART_SIZE)
    if self.count > num_parts:
      raise UserError(
        f"{self.option}: {len(videos)} videos make at most {num_parts} shards, of"
        f" {index_builder.PART_SIZE} videos each; use fewer"
      )
    first, last = (num_parts * number // self.count for number in (self.number, self.number + 1))
    return videos[first * index_builder.PART_SIZE : last * index_builder.PART_SIZE]

  def path(self, out: _Path) -> _Path:
    """Returns the file of the shard of an index."""
    return out.with_name(f"{out.stem}-{self.number:05d}-of-{self.count:05d}{out.suffix}")

  def label(self, videos: Sequence[PathLike]) -> str:
    """Returns `VideoIndex.shard`, which also names the complete list of videos."""
    return f"{self.number}/{self.count} of {index_builder.describe_names([os.fspath(video) for video in videos])}"


def join_shards(out: pathlib.Path, max_skipped: float = 0.05) -> VideoIndex:
  """Writes the index of all shards beside `out`, equal to that of a single machine; keeps the shards.

  Args:
    out: the index file.
    max_skipped: see `index_builder.build_index`.

  Raises:
    UserError: `out` exists, a shard is missing or corrupt, or belongs to other videos or another model; or too many
      videos are unreadable.
  """
  if out.exists():
    raise UserError(f"--out={out} exists; delete it to join its shards again, or name another file")
  shards = _find_shards(out)
  videos = _check_same_job(shards)
  table = dataclasses.replace(index_tables.merge_tables(shards), shard="")
  num_videos = len(table.videos) + len(table.bad)
  if not table.segments and not videos.startswith(f"{num_videos}, "):
    raise UserError(f"--out={out}: its shards have {num_videos} videos, their list has {videos}; embed them again")
  index_builder.check_unreadable(table, num_videos, max_skipped)
  video_index.write_joined(out, table, list(shards))
  return video_index.read_index(out)


def _find_shards(out: pathlib.Path) -> dict[pathlib.Path, Shard]:
  """Returns the shards of an index in order."""
  pattern = re.compile(rf"{re.escape(out.stem)}-(\d{{5,6}})-of-(\d{{5,6}}){re.escape(out.suffix)}", re.ASCII)
  try:
    names = sorted(path.name for path in out.absolute().parent.iterdir())
  except OSError as error:
    raise UserError(f"--out={out}: its folder cannot be read ({error.strerror}); check the path") from error
  found = [Shard(int(match[1]), int(match[2])) for name in names if (match := pattern.fullmatch(name))]
  counts = sorted({shard.count for shard in found})
  if not found:
    raise UserError(f"--out={out}: no shards beside it, such as {Shard(0, 4).path(out).name}; embed with --shard=1/4")
  if len(counts) > 1:
    raise UserError(f"--out={out}: shards of {counts[0]} and of {counts[1]} are beside it; delete those of one")
  missing = sorted(set(range(counts[0])) - {shard.number for shard in found})
  if missing:
    files = list_first((Shard(number, counts[0]).path(out).name for number in missing), _MAX_NAMED)
    raise UserError(
      f"--out={out}: {len(missing)} of {counts[0]} shards are missing: {files}; embed the first with"
      f" {Shard(missing[0], counts[0]).option}, or copy it here"
    )
  return {shard.path(out): shard for shard in sorted(found, key=lambda shard: shard.number)}


def _check_same_job(shards: dict[pathlib.Path, Shard]) -> str:
  """Returns `describe_names` of all videos; raises UserError if a shard is of other ones, or of another model."""
  jobs = []
  for path, shard in shards.items():
    index = video_index.read_index(path)
    prefix = f"{shard.number}/{shard.count} of "
    if not index.shard.startswith(prefix):
      raise UserError(f"{path} is not what {shard.option} writes; was it renamed? Embed it again")
    size = index.features.shape[1]
    jobs.append((index.identity, size, index.crop, index.segments, index.shard.removeprefix(prefix)))
    names = ("model", "size of features", "crop", "segments", "list of videos")
    for name, first, other in zip(names, jobs[0], jobs[-1], strict=True):
      if other != first:
        raise UserError(f"{path} has another {name} than {next(iter(shards))}; embed it again as the others")
  return jobs[0][-1]
