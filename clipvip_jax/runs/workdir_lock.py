"""One run at a time in a folder: the kernel's lock on DIR/lock, which goes with the process that holds it."""

import contextlib
import datetime
import errno
import fcntl
import json
import os
import pathlib
import socket
from collections.abc import Iterator
from typing import TextIO

from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import log

NAME = "lock"
# What flock says on file systems that have no locks.
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)


@contextlib.contextmanager
def workdir_lock(folder: pathlib.Path) -> Iterator[None]:
  """Holds the folder for this process; where the file system has no locks, it warns once and goes on without.

  The file stays behind, with host, process and start of who held it last. That it is there says nothing: the kernel
  drops the lock however its holder ends, so that of a killed run stands in nobody's way.

  Args:
    folder: must exist.

  Raises:
    UserError: another run holds it; names its host and process.
    OSError: the file cannot be written.
  """
  # Not truncated on opening: it may tell of another holder.
  with (folder / NAME).open("a+", encoding="utf-8") as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
      raise UserError(
        f"--workdir={folder} is in use by {_holder(file)}: wait for its end, end it, or name another"
      ) from error
    except OSError as error:
      if error.errno not in _NO_LOCKS:
        raise
      log.warning("%s is on a file system without locks: see that no second run is started there", folder)
      yield
      return
    _sign(file)
    yield


def _sign(file: TextIO) -> None:
  """Notes who holds the lock."""
  started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
  file.truncate(0)
  json.dump({"host": socket.gethostname(), "pid": os.getpid(), "start": started}, file)
  file.write("\n")
  file.flush()


def _holder(file: TextIO) -> str:
  """Who holds the lock, in words."""
  file.seek(0)
  try:
    holder = json.loads(file.read())
    return f"process {holder['pid']} on {holder['host']}, started {holder['start']}"
  except (ValueError, KeyError, TypeError):
    return "a process that has not yet said which it is"
