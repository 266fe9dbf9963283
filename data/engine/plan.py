"""Plans: all items of a corpus, written to disk before decoding and split into shards.

PLAN/SPLIT.jsonl holds the items of a split in order; a shard is a range of its lines. Memory does not grow with the
corpus, except for 8 bytes per clip that detect duplicate ids.
"""

from __future__ import annotations

import array
import contextlib
import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from etils import epath

from clipvip_jax.data.engine.annotation_warnings import AnnotationWarnings
from clipvip_jax.data.engine.items import Item
from clipvip_jax.data.engine.text_hash import find_repeated, hash_text
from clipvip_jax.utils.errors import UserError

# Splits are cut into about _TARGET_SHARDS shards of at least _MIN_CLIPS and at most _MAX_CLIPS clips.
_TARGET_SHARDS, _MIN_CLIPS, _MAX_CLIPS = 128, 16, 2048
_MAX_SPLITS = 100


@dataclasses.dataclass(frozen=True)
class Shard:
  """A range of a split's lines.

  Attributes:
    split: name of the split.
    index: number of the shard within the split.
    offset: offset of its first line in bytes.
    count: number of items.
    digest: SHA-256 of the lines.
  """

  split: str
  index: int
  offset: int
  count: int
  digest: str

  @property
  def name(self) -> str:
    """`train-00003`."""
    return f"{self.split}-{self.index:05d}"


@dataclasses.dataclass(frozen=True)
class Plan:
  """Items on disk.

  Attributes:
    folder: folder of the splits' files.
    counts: number of items of each split.
    annotations_digest: SHA-256 of all items, independent of the folder of the videos.
  """

  folder: epath.Path
  counts: dict[str, int]
  annotations_digest: str = ""

  def items(self, shard: Shard) -> Iterator[Item]:
    """Yields the items of a shard in order."""
    return (Item.from_json(line) for line in _read_lines(self.folder, shard.split, shard.offset, shard.count))

  def shards(self, clips_per_shard: int = 0) -> Iterator[Shard]:
    """Yields the shards of all splits.

    Args:
      clips_per_shard: items of each shard; 0: chosen by the size of the split.
    """
    for split, total in self.counts.items():
      size = clips_per_shard or min(_MAX_CLIPS, max(_MIN_CLIPS, -(-total // _TARGET_SHARDS)))
      with _path(self.folder, split).open("rb") as file:
        for index, first in enumerate(range(0, total, size)):
          offset, digest = file.tell(), hashlib.sha256()
          count = min(size, total - first)
          for _ in range(count):
            digest.update(file.readline())
          yield Shard(split, index, offset, count, digest.hexdigest())


def write_plan(items: Iterable[Item], splits: Iterable[str], folder: epath.Path) -> Plan:
  """Writes items to one file per split.

  Args:
    items: items of all splits in any order. The order within a split is that of the corpus.
    splits: required splits. Items may have others.
    folder: created if absent; existing files are replaced.

  Raises:
    UserError: two items of a split have the same id, or a split has no items.
  """
  folder.mkdir(parents=True, exist_ok=True)
  id_hashes = {split: array.array("Q") for split in splits}
  warnings = AnnotationWarnings()
  with contextlib.ExitStack() as files:
    writers: dict[str, Callable[[bytes], Any]] = {}
    for item in items:
      if item.split not in writers:
        writers[item.split] = files.enter_context(_path(folder, item.split).open("wb")).write
        id_hashes.setdefault(item.split, array.array("Q"))
      writers[item.split](item.to_json().encode(errors="surrogatepass") + b"\n")
      id_hashes[item.split].append(hash_text(item.id))
      warnings.add(item)
      if len(writers) > _MAX_SPLITS:
        raise UserError(f"the annotations have more than {_MAX_SPLITS} splits, the last {item.split!r}; use fewer")
  if not any(id_hashes.values()):
    raise UserError("the annotations have no clips; check that they are complete")
  for split, hashes in id_hashes.items():
    if not hashes:
      raise UserError(f"split {split!r} has no clips; check that its annotations are complete")
    _check_unique(folder, split, hashes)
  warnings.log()
  return Plan(folder, {split: len(hashes) for split, hashes in id_hashes.items()})


def tee_items(items: Iterable[Item], raw_dir: epath.Path, update: Callable[[bytes], None]) -> Iterator[Item]:
  """Yields the items, and passes each to `update` with its video's path relative to the raw files."""
  root = os.fspath(raw_dir if raw_dir.is_dir() else raw_dir.parent) + "/"
  for item in items:
    relative = dataclasses.replace(item, video=item.video.removeprefix(root))
    update(relative.to_json().encode(errors="surrogatepass"))
    yield item


def _check_unique(folder: epath.Path, split: str, hashes: array.array) -> None:
  repeated = find_repeated(hashes)
  first: dict[str, int] = {}
  for number, line in enumerate(_read_lines(folder, split, 0, len(hashes) if repeated else 0), 1):
    name = Item.from_json(line).id
    if hash_text(name) in repeated and first.setdefault(name, number) != number:
      raise UserError(
        f"split {split!r}: clips {first[name]} and {number} have the same id {name!r}; give each clip another id"
      )


def _path(folder: epath.Path, split: str) -> epath.Path:
  return folder / f"{split}.jsonl"


def _read_lines(folder: epath.Path, split: str, offset: int, count: int) -> Iterator[str]:
  with _path(folder, split).open("rb") as file:
    file.seek(offset)
    for _ in range(count):
      yield file.readline().decode(errors="surrogatepass")
