"""The lock file of a run's workdir, which prevents two runs from writing to it at the same time."""

import contextlib
import datetime
import json
import os
import pathlib
import socket
from collections.abc import Iterator
from typing import TextIO

from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.file_lock import LockHeldError, LocksUnsupportedError, file_lock
from clipvip_jax.utils.log import log

NAME = "lock"


@contextlib.contextmanager
def workdir_lock(workdir: pathlib.Path, address: str = "") -> Iterator[None]:
  """Holds the exclusive lock on WORKDIR/lock. Where the file system has no locks, warns and continues without.

  The file records host, process id and start time of its last holder. It stays behind, and is no obstacle to the next
  run: the kernel releases the lock itself when its holder ends, even if the holder is killed.

  Args:
    workdir: an existing folder.
    address: of the workdir, for messages; "": the folder itself.

  Raises:
    UserError: another run holds the lock; names its host and process id.
    OSError: the file cannot be written.
  """
  path = workdir / NAME
  with contextlib.ExitStack() as stack:
    try:
      file = stack.enter_context(file_lock(path))
    except LockHeldError as error:
      raise UserError(
        f"--workdir={address or workdir} is in use by {_holder(path)}; wait until it ends, stop it, or choose another"
        " --workdir"
      ) from error
    except LocksUnsupportedError:
      log.warning("%s is on a file system without locks; make sure that no second run uses this workdir", workdir)
      file = stack.enter_context(path.open("w", encoding="utf-8"))
    _record_holder(file)
    yield


def check_held(workdir: pathlib.Path) -> None:
  """Checks that the path still leads to the folder that this process has locked.

  Raises:
    UserError: the folder was moved, deleted or replaced.
  """
  path = workdir / NAME
  try:
    holder = json.loads(path.read_text(encoding="utf-8"))
    held = (holder["host"], holder["pid"]) == (socket.gethostname(), os.getpid())
  except (FileNotFoundError, NotADirectoryError):
    held = False
  except (OSError, ValueError, KeyError, TypeError):  # the file cannot be read, but exists
    held = True
  if not held:
    raise UserError(
      f"--workdir={workdir} was moved, deleted or replaced during this run; stopped. Move it back, then run the same"
      " command to resume"
    )


def _record_holder(file: TextIO) -> None:
  start = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
  file.truncate(0)
  json.dump({"host": socket.gethostname(), "pid": os.getpid(), "start": start}, file)
  file.write("\n")
  file.flush()


def _holder(path: pathlib.Path) -> str:
  """Describes the process that holds the lock."""
  try:
    holder = json.loads(path.read_text(encoding="utf-8"))
    return f"process {holder['pid']} on {holder['host']}, started {holder['start']}"
  except (OSError, ValueError, KeyError, TypeError):
    return "a process that has not yet recorded its host and id"
