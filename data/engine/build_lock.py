"""The lock of an incomplete corpus: one build at a time writes it."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Iterator

from etils import epath

from clipvip_jax.data.engine import build_files
from clipvip_jax.utils import lease, storage, transfers
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.file_lock import LockHeldError, file_lock

NAME = "lock"


@contextlib.contextmanager
def locked(build_dir: epath.Path) -> Iterator[None]:
  """Creates the folder of a build and holds its lock in the block: flock, or a lease in an object store.

  Raises:
    UserError: another process holds the lock, or the block raises an OSError, as for a full disk.
  """
  try:
    if storage.is_remote(build_dir):
      with lease.held_lease(build_dir / NAME, f"{build_dir}", "build"):
        yield
      return
    build_files.make_folder(build_dir)
    with file_lock(pathlib.Path(build_dir) / NAME):
      yield
  except LockHeldError as error:
    raise UserError(f"{build_dir}: another process is building this corpus; wait for it, or stop it") from error
  except OSError as error:
    raise build_files.disk_error(build_dir, error) from error


def delete_leftovers(build_dir: epath.Path) -> None:
  """Deletes the folder of a build that was killed after it had completed the corpus."""
  if transfers.exists(build_dir):
    with contextlib.suppress(UserError), locked(build_dir):  # locked: another build is about to replace the corpus
      build_files.delete_folder(build_dir)
