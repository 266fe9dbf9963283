"""Folders on this machine and elsewhere (gs://, s3://), through the paths that TFDS uses."""

from __future__ import annotations

import contextlib
import errno
import os
import pathlib
import tempfile
from collections.abc import Iterator

from etils import epath

from clipvip_jax.utils import atomic_write
from clipvip_jax.utils.errors import UserError


def is_remote(address: str | os.PathLike[str]) -> bool:
  """Whether it lies on another machine."""
  return "://" in os.fspath(address)


def absolute(address: str) -> epath.Path:
  """The same place from whatever folder a build goes on; ~ is one's own."""
  return epath.Path(address) if is_remote(address) else epath.Path(pathlib.Path(address).expanduser().absolute())


def file_state(address: str | os.PathLike[str]) -> list[int]:
  """Size and time of a file, or of all in a folder: whether it was changed since. Empty for one that is absent."""
  try:
    if not is_remote(address):
      place = pathlib.Path(address)
      stats = [path.stat() for path in (sorted(place.iterdir()) if place.is_dir() else [place])]
      return [number for stat in stats for number in (stat.st_size, stat.st_mtime_ns)]
    remote = epath.Path(address).stat()
    return [remote.length, int(remote.mtime)]
  except OSError:
    return []


def matching(folder: epath.Path, pattern: str) -> list[epath.Path]:
  """What matches in a folder, sorted. The folder's own name may hold what is special in a pattern."""
  if is_remote(folder):
    return sorted(folder.glob(pattern))
  return sorted(epath.Path(path) for path in pathlib.Path(folder).glob(pattern))


@contextlib.contextmanager
def atomic_path(path: epath.Path) -> Iterator[pathlib.Path]:
  """A local name to write to; what was written stands at `path` when the block ends well, and not before.

  Raises:
    OSError: it cannot be written.
  """
  if not is_remote(path):
    with atomic_write.atomic_path(pathlib.Path(path)) as temporary:
      yield temporary
    return
  with tempfile.TemporaryDirectory() as folder:
    temporary = pathlib.Path(folder) / path.name
    yield temporary
    epath.Path(temporary).copy(path, overwrite=True)  # an object appears when all of it was sent


@contextlib.contextmanager
def file_lock(path: epath.Path) -> Iterator[bool]:
  """Holds a lock on a local file, which ends with this process however that ends; gives whether it was free.

  A store of objects knows no locks: there it is always free.
  """
  import fcntl

  if is_remote(path):
    yield True
    return
  path.parent.mkdir(parents=True, exist_ok=True)
  with pathlib.Path(path).open("w") as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      yield False
      return
    yield True


def disk_error(folder: epath.Path, error: OSError) -> UserError:
  """What to say of a disk that is full or closed to us while a corpus is built."""
  full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
  what = "there is no space left" if full else error.strerror or error
  return UserError(f"{folder}: {what}. Finished shards are kept: make room and build again, it goes on from there")


@contextlib.contextmanager
def redirect_stderr(path: epath.Path) -> Iterator[None]:
  """Sends standard error of this process, and of those that it starts meanwhile, to a local file."""
  if is_remote(path):
    yield
    return
  before = os.dup(2)
  try:
    with pathlib.Path(path).open("ab") as file:
      os.dup2(file.fileno(), 2)
    yield
  finally:
    os.dup2(before, 2)
    os.close(before)


def link_or_copy(source: epath.Path, target: epath.Path) -> None:
  """Makes a finished file stand at `target` too, as a second name where both lie in one file system."""
  if not is_remote(source) and not is_remote(target):
    try:
      os.link(source, target)
      return
    except OSError:  # another file system, or one without links
      pass
  source.copy(target, overwrite=True)
