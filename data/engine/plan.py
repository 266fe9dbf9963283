"""The items of a corpus, written down before anything is decoded, and cut into shards.

PLAN/SPLIT.jsonl holds a split's items in order. A shard is a range of it, so that neither a worker nor the planner
holds a list of clips that grows with the corpus (but for 8 bytes a clip that find duplicates).
"""

from __future__ import annotations

import array
import contextlib
import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from etils import epath

from clipvip_jax.utils.errors import UserError
from data.engine.items import Item

# A corpus has about so many shards, if they can hold as many clips as that.
_SHARDS, _LEAST, _MOST = 128, 16, 2048
_SPLITS = 100  # at most, of a corpus


@dataclasses.dataclass(frozen=True)
class Shard:
  """Lines of a split's plan. offset: in bytes. count: items. digest: of the lines."""

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
  """Where the items of each split stand, and how many they are."""

  folder: epath.Path
  counts: dict[str, int]

  def items(self, shard: Shard) -> Iterator[Item]:
    """A shard's items in order."""
    return (Item.from_json(line) for line in read_lines(self.folder, shard.split, shard.offset, shard.count))

  def shards(self, clips: int = 0) -> Iterator[Shard]:
    """Every shard of every split. clips: items in each; 0: chosen by the size of the split."""
    for split, total in self.counts.items():
      size = clips or min(_MOST, max(_LEAST, -(-total // _SHARDS)))
      with _path(self.folder, split).open("rb") as file:
        for index, first in enumerate(range(0, total, size)):
          offset, digest = file.tell(), hashlib.sha256()
          count = min(size, total - first)
          for _ in range(count):
            digest.update(file.readline())
          yield Shard(split, index, offset, count, digest.hexdigest())


def read_lines(folder: epath.Path, split: str, offset: int, count: int) -> Iterator[str]:
  """Lines of a split's plan."""
  with _path(folder, split).open("rb") as file:
    file.seek(offset)
    for _ in range(count):
      yield file.readline().decode(errors="surrogatepass")


def write_plan(items: Iterable[Item], splits: Iterable[str], folder: epath.Path) -> Plan:
  """Writes the items down, each into its split's file.

  Args:
    items: of all splits, in any order; the order within a split is that of the corpus.
    splits: that must be there; the items may name more.
    folder: made where it is absent; what it held is replaced.

  Raises:
    UserError: two items of a split have the same id, or a split has none.
  """
  folder.mkdir(parents=True, exist_ok=True)
  seen = {split: array.array("Q") for split in splits}
  with contextlib.ExitStack() as files:
    write: dict[str, Callable[[bytes], Any]] = {}
    for item in items:
      if item.split not in write:
        write[item.split] = files.enter_context(_path(folder, item.split).open("wb")).write
        seen.setdefault(item.split, array.array("Q"))
      write[item.split](item.to_json().encode(errors="surrogatepass") + b"\n")
      seen[item.split].append(_hash(item.id))
      if len(write) > _SPLITS:
        raise UserError(f"the annotations name more than {_SPLITS} splits, the last {item.split!r}")
  if not any(seen.values()):
    raise UserError("the annotations name no clips")
  for split, hashes in seen.items():
    if not hashes:
      raise UserError(f"split {split!r} has no clips")
    _check_unique(folder, split, hashes)
  return Plan(folder, {split: len(hashes) for split, hashes in seen.items()})


def _check_unique(folder: epath.Path, split: str, hashes: array.array) -> None:
  import numpy as np

  values = np.sort(np.frombuffer(hashes, np.uint64))
  twice = set(values[1:][values[1:] == values[:-1]].tolist())
  first: dict[str, int] = {}
  for number, line in enumerate(read_lines(folder, split, 0, len(hashes) if twice else 0), 1):
    name = Item.from_json(line).id
    if _hash(name) in twice and first.setdefault(name, number) != number:
      raise UserError(f"split {split!r}: the id {name!r} stands for clip {first[name]} and for clip {number}")


def _hash(name: str) -> int:
  return int.from_bytes(hashlib.blake2b(name.encode(errors="surrogatepass"), digest_size=8).digest(), "little")


def _path(folder: epath.Path, split: str) -> epath.Path:
  return folder / f"{split}.jsonl"
