"""The working folder of a build."""

from __future__ import annotations

import dataclasses
import hashlib

from etils import epath

from clipvip_jax.data.engine.plan import Shard


@dataclasses.dataclass(frozen=True)
class BuildWork:
  """Folder and inputs of a build.

  Attributes:
    folder: Folder of the shards.
    settings: All settings that determine the content of the shards besides the items, serialised.
    clips_per_shard: Items of each shard; 0: chosen by the size of the split.
  """

  folder: epath.Path
  settings: str
  clips_per_shard: int = 0

  def digest(self, shard: Shard) -> str:
    """Returns a SHA-256 digest of all inputs of a shard."""
    return hashlib.sha256(f"{shard.digest} {self.settings}".encode()).hexdigest()

  @property
  def error_file(self) -> epath.Path:
    """File with the first error of a build; workers start no shard while it exists."""
    return self.folder / "error.json"

  @property
  def worker_log(self) -> epath.Path:
    """File with standard error of Beam's local processes."""
    return self.folder / "workers.log"
