"""Files on local disks and in object stores (gs://, s3://), through etils paths as TFDS uses them."""

from __future__ import annotations

import contextlib
import os
import pathlib
import tempfile
from collections.abc import Iterator

from etils import epath

from clipvip_jax.utils import atomic_write
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.file_lock import file_lock
from clipvip_jax.utils.local_paths import find_path


def is_remote(address: str | os.PathLike[str]) -> bool:
  """Returns whether the address is a URL such as gs://bucket/file."""
  return "://" in os.fspath(address)


def absolute(address: str) -> epath.Path:
  """Makes a local path absolute and expands ~; returns a URL unchanged."""
  return epath.Path(address) if is_remote(address) else epath.Path(pathlib.Path(address).expanduser().absolute())


def find_video(address: str) -> str:
  """Returns `local_paths.find_path` of a local path; returns a URL unchanged."""
  return address if is_remote(address) else find_path(address)


def file_state(address: str | os.PathLike[str]) -> list[int]:
  """Returns size in bytes and modification time of a file, or of all files in a folder; [] if it does not exist."""
  try:
    if not is_remote(address):
      path = pathlib.Path(address)
      stats = [file.stat() for file in (sorted(path.iterdir()) if path.is_dir() else [path])]
      return [number for stat in stats for number in (stat.st_size, stat.st_mtime_ns)]
    remote = epath.Path(address).stat()
    return [remote.length, int(remote.mtime)]
  except OSError:
    return []


def glob(folder: epath.Path, pattern: str) -> list[epath.Path]:
  """Returns the sorted paths in a folder that match. Special characters in the folder's own name are literal."""
  if is_remote(folder):
    return sorted(folder.glob(pattern))
  return sorted(epath.Path(path) for path in pathlib.Path(folder).glob(pattern))


@contextlib.contextmanager
def atomic_path(path: epath.Path) -> Iterator[pathlib.Path]:
  """Yields a local temporary path whose content is committed atomically to `path` if the block succeeds.

  Raises:
    OSError: The file cannot be written.
  """
  if not is_remote(path):
    with atomic_write.atomic_path(pathlib.Path(path)) as temporary:
      yield temporary
    return
  with tempfile.TemporaryDirectory() as folder:
    temporary = pathlib.Path(folder) / path.name
    yield temporary
    epath.Path(temporary).copy(path, overwrite=True)  # an object appears when its upload completes


def lock_folder(folder: epath.Path) -> contextlib.AbstractContextManager[object]:
  """Locks a folder against other processes of this machine. Object stores have no locks: there, does nothing.

  Raises:
    LockHeldError: Another process holds the lock.
  """
  if is_remote(folder):
    return contextlib.nullcontext()
  return file_lock(pathlib.Path(folder) / "lock")


def disk_error(folder: epath.Path, error: OSError) -> UserError:
  """Returns a UserError for an OSError of a build, such as a full disk, an exceeded quota or missing permissions."""
  reason = atomic_write.disk_error_reason(error) or error.strerror or error
  return UserError(
    f"{folder}: {reason}. Completed shards are kept; free disk space or fix permissions, then run the build again to"
    " resume"
  )


@contextlib.contextmanager
def redirect_stderr(path: epath.Path) -> Iterator[None]:
  """Appends standard error of this process and its children to a local file."""
  if is_remote(path):
    yield
    return
  original = os.dup(2)
  try:
    with pathlib.Path(path).open("ab") as file:
      os.dup2(file.fileno(), 2)
    yield
  finally:
    os.dup2(original, 2)
    os.close(original)


def link_or_copy(path: epath.Path, target: epath.Path) -> None:
  """Creates a hard link `target` to a file, or a copy where links are not possible."""
  if not is_remote(path) and not is_remote(target):
    try:
      os.link(path, target)
      return
    except OSError:  # another file system, or one without links
      pass
  path.copy(target, overwrite=True)
