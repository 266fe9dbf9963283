"""The working folder of a build."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pathlib
import tempfile

from etils import epath

from clipvip_jax.data.engine.plan import Shard
from clipvip_jax.utils import storage


@dataclasses.dataclass(frozen=True)
class BuildWork:
  """Folder and inputs of a build.

  Attributes:
    folder: folder of the shards.
    settings: all settings that determine the content of the shards besides the items, serialised.
    clips_per_shard: items of each shard; 0: chosen by the size of the split.
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
  def worker_log(self) -> pathlib.Path:
    """Local file with standard error of Beam's processes on this machine."""
    if not storage.is_remote(self.folder):
      return pathlib.Path(self.folder / "workers.log")
    name = hashlib.sha256(os.fspath(self.folder).encode()).hexdigest()[:12]
    return pathlib.Path(tempfile.gettempdir(), f"clipvip_jax_build_{os.getuid()}_{name}.log")
