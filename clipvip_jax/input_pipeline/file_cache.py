"""A bounded cache of the files of corpora in object stores, in a local folder that processes share.

| file | holds |
|---|---|
| KEY.array_record | a complete file; its modification time is that of its last use |
| KEY.part | locked by the process that downloads KEY; its size is that of the complete file, and counts |
| lock | locked while a process makes room |

A process that reads a file holds a shared lock on it; the least recently used files that nobody holds are deleted. KEY
depends on the content of the object, so that a corpus that is built again has other files. The kernel releases the
locks of a process that is killed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import os
import pathlib
import shutil
import time
from collections.abc import Iterator

from clipvip_jax.utils import atomic_write, storage, transfers
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.file_lock import LockHeldError, LocksUnsupportedError, file_lock
from clipvip_jax.utils.log import log

_SUFFIX = ".array_record"
_FOREVER = 10.0**9  # seconds
_POLL_SECONDS = 0.05
_WARNING_SECONDS = 60.0
_USABLE = 0.95  # of the free space of a disk


@dataclasses.dataclass(frozen=True)
class RemoteFile:
  """An object of a store.

  Attributes:
    url: its address.
    size: in bytes.
    version: a text that changes with its content.
    num_records: records in it.
  """

  url: str
  size: int
  version: str
  num_records: int

  @property
  def key(self) -> str:
    """The name of its copy in the cache, without suffix."""
    return hashlib.sha256(f"{self.url} {self.size} {self.version}".encode()).hexdigest()[:32]


@dataclasses.dataclass(frozen=True)
class FileCache:
  """The cache in a folder.

  Attributes:
    folder: its absolute path; created when it is first used.
    max_bytes: limit of the sizes of all files together.
  """

  folder: pathlib.Path
  max_bytes: int

  def fitted(self, files: list[RemoteFile]) -> FileCache:
    """Checks that each file fits, and that the folder can be written.

    Returns:
      The cache, with a lower limit if its disk has less space.

    Raises:
      UserError: a file does not fit, or the folder cannot be written.
    """
    largest = max(files, key=lambda file: file.size, default=None)
    if largest and largest.size > self.max_bytes:
      raise UserError(
        f"data.cache_gb={self.max_bytes / 1e9:g} is less than the {largest.size / 1e9:.3g} GB of {largest.url};"
        " raise it"
      )
    try:
      self.folder.mkdir(parents=True, exist_ok=True)
      with file_lock(self.folder / "lock", timeout=_FOREVER):
        cached = sum(size for _, size, _ in self._files())
        usable = cached + int(_USABLE * shutil.disk_usage(self.folder).free)
    except OSError as error:
      raise self._error(error) from error
    if largest and largest.size > usable:
      raise UserError(
        f"data.cache_dir={self.folder}: its disk has room for {usable / 1e9:.3g} of the {largest.size / 1e9:.3g} GB of"
        f" {largest.url}; free space, or choose another folder"
      )
    return dataclasses.replace(self, max_bytes=min(self.max_bytes, usable))

  @contextlib.contextmanager
  def use(self, file: RemoteFile) -> Iterator[pathlib.Path]:
    """Yields the path of a file's copy, which is downloaded if absent and not deleted within the block.

    Raises:
      UserError: the store refuses or cannot be reached, or the folder cannot be written.
      FileNotFoundError: there is no such object.
    """
    path = self.folder / f"{file.key}{_SUFFIX}"
    while (descriptor := self._hold(path, file.size)) is None:
      try:
        self._download(file, path)
      except FileNotFoundError:
        if self.folder.is_dir():
          raise
        self.folder.mkdir(parents=True, exist_ok=True)  # deleted by a user, as a cache may be
      except OSError as error:
        raise self._error(error) from error
    try:
      yield path
    finally:
      os.close(descriptor)

  def holds(self, file: RemoteFile) -> bool:
    """Returns whether there is a complete copy of a file."""
    return (self.folder / f"{file.key}{_SUFFIX}").exists()

  def discard(self, file: RemoteFile) -> None:
    """Deletes a file's copy, which is corrupt."""
    (self.folder / f"{file.key}{_SUFFIX}").unlink(missing_ok=True)

  def _hold(self, path: pathlib.Path, size: int) -> int | None:
    """Returns a descriptor that holds a shared lock on a complete file; None if there is none."""
    try:
      descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
      return None
    fcntl.flock(descriptor, fcntl.LOCK_SH)  # a process that deletes files holds the other lock for an instant only
    stat = os.fstat(descriptor)
    if stat.st_nlink and stat.st_size == size:
      os.utime(path)
      return descriptor
    os.close(descriptor)
    if stat.st_nlink:  # cut off by a crash of the system
      path.unlink(missing_ok=True)
    return None

  def _download(self, file: RemoteFile, path: pathlib.Path) -> None:
    """Downloads a file unless another process has done so meanwhile."""
    part = self.folder / f"{file.key}.part"
    with file_lock(part, timeout=_FOREVER) as reservation:
      if not os.fstat(reservation.fileno()).st_nlink:  # deleted by the process that held the lock
        return
      try:
        if path.exists():
          return
        self._reserve(reservation.fileno(), part, file.size)
        log.debug("downloading %s", file.url)
        transfers.download(storage.absolute(file.url), path)
      finally:
        with file_lock(self.folder / "lock", timeout=_FOREVER):  # a process that makes room counts the file or the part
          part.unlink(missing_ok=True)

  def _reserve(self, descriptor: int, part: pathlib.Path, size: int) -> None:
    """Sets the size of a reservation when there is room for it; waits while files in use leave none."""
    started, warned = time.monotonic(), False
    while True:
      with file_lock(self.folder / "lock", timeout=_FOREVER):
        if self._make_room(size, part):
          os.ftruncate(descriptor, size)
          return
      if not warned and time.monotonic() - started > _WARNING_SECONDS:
        warned = True
        log.warning("%s: files in use fill data.cache_gb=%g; waiting for room", self.folder, self.max_bytes / 1e9)
      time.sleep(_POLL_SECONDS)

  def _make_room(self, size: int, own_part: pathlib.Path) -> bool:
    """Deletes the least recently used files, and what killed processes left. Returns whether `size` bytes fit."""
    reserved, files = 0, list(self._files())
    for entry in self.folder.glob("*.part"):
      with contextlib.suppress(FileNotFoundError):
        if entry != own_part:
          reserved += self._reserved_bytes(entry)
    total = reserved + sum(number for _, number, _ in files)
    for _, number, path in sorted(files):
      if total + size <= self.max_bytes:
        return True
      if _delete_unused(path):
        total -= number
    return total + size <= self.max_bytes

  def _files(self) -> Iterator[tuple[int, int, pathlib.Path]]:
    """Yields time of the last use, size and path of each complete file."""
    for path in self.folder.glob(f"*{_SUFFIX}"):
      with contextlib.suppress(FileNotFoundError):
        stat = path.stat()
        yield stat.st_mtime_ns, stat.st_size, path

  def _reserved_bytes(self, part: pathlib.Path) -> int:
    """Returns the size of a download in progress; deletes what a killed process left, and returns 0."""
    try:
      with file_lock(part) as file:
        # Without a name, it is a reservation that ended while it was opened: another one may have its name now.
        if os.fstat(file.fileno()).st_nlink:
          for temporary in self.folder.glob(f".{part.stem}{_SUFFIX}.*.tmp"):
            temporary.unlink(missing_ok=True)
          part.unlink(missing_ok=True)
          return 0
      return self._reserved_bytes(part)
    except LockHeldError:
      return part.stat().st_size

  def _error(self, error: OSError) -> UserError:
    if isinstance(error, LocksUnsupportedError):
      return UserError(f"data.cache_dir={self.folder}: this file system has no locks; choose a folder on a local disk")
    reason = atomic_write.disk_error_reason(error) or error.strerror or error
    return UserError(f"data.cache_dir={self.folder}: {reason}; choose another folder, or a smaller data.cache_gb")


def _delete_unused(path: pathlib.Path) -> bool:
  """Deletes a file that no process holds. Returns whether it is gone."""
  try:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
  except FileNotFoundError:
    return True
  try:
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    path.unlink(missing_ok=True)
    return True
  except BlockingIOError:
    return False
  finally:
    os.close(descriptor)
