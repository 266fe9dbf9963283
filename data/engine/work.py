"""The working folder of a build and the settings that decide the content of its shards."""

from __future__ import annotations

import dataclasses
import hashlib

from etils import epath

from data.engine.plan import Shard


@dataclasses.dataclass(frozen=True)
class BuildWork:
  """Where shards are made, what decides their content besides the items, and how many clips each has (0: chosen)."""

  folder: epath.Path
  settings: str
  clips: int = 0

  def digest(self, shard: Shard) -> str:
    """Of everything that the shard is made from."""
    return hashlib.sha256(f"{shard.digest} {self.settings}".encode()).hexdigest()

  @property
  def stop(self) -> epath.Path:
    """The first error of a build: shards that come after it do not begin."""
    return self.folder / "stop.json"

  @property
  def chatter(self) -> epath.Path:
    """What Beam's processes on this machine write to standard error."""
    return self.folder / "workers.log"
