"""Advisory locks on files (flock). The kernel releases a lock when its holder ends, even if the holder is killed."""

import contextlib
import errno
import fcntl
import pathlib
import time
from collections.abc import Iterator
from typing import TextIO

_POLL_SECONDS = 0.1
# flock's errors on file systems that have no locks, such as some network mounts.
_UNSUPPORTED = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)


class LockHeldError(Exception):
  """Another process holds the lock."""


class LocksUnsupportedError(OSError):
  """The file system has no locks."""


@contextlib.contextmanager
def file_lock(path: pathlib.Path, *, shared: bool = False, timeout: float = 0.0) -> Iterator[TextIO]:
  """Holds the lock on a file inside a `with` block.

  The file is created if absent, is not truncated, and stays behind; its presence does not mean that it is locked.

  Args:
    path: the file; its folder must exist.
    shared: whether other holders of a shared lock are allowed.
    timeout: seconds to wait for another holder.

  Yields:
    The file, open for reading and appending. A child process that inherits its descriptor holds the lock as well,
    after the block has ended.

  Raises:
    LockHeldError: another process still holds it after `timeout`.
    LocksUnsupportedError: the file system has no locks.
    OSError: the file cannot be opened or locked.
  """
  # Closing releases the lock. An explicit LOCK_UN would release it for a child that inherited the descriptor, too.
  with path.open("a+", encoding="utf-8") as file:
    _acquire(file, fcntl.LOCK_SH if shared else fcntl.LOCK_EX, time.monotonic() + timeout)
    yield file


def _acquire(file: TextIO, kind: int, deadline: float) -> None:
  while True:
    try:
      fcntl.flock(file, kind | fcntl.LOCK_NB)
      return
    except BlockingIOError as error:
      if time.monotonic() >= deadline:
        raise LockHeldError(f"{file.name} is locked by another process") from error
    except OSError as error:
      if error.errno in _UNSUPPORTED:
        raise LocksUnsupportedError(error.errno, error.strerror, file.name) from error
      raise
    time.sleep(_POLL_SECONDS)


def is_locked(path: pathlib.Path) -> bool:
  """Returns whether a process holds the exclusive lock on a file. Probes with a shared lock, held for an instant."""
  try:
    with file_lock(path, shared=True):
      return False
  except LockHeldError:
    return True
