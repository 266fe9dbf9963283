"""Atomic file writes, and the reasons for which a file system refuses to write."""

import contextlib
import errno
import fcntl
import functools
import os
import pathlib
import re
import secrets
from collections.abc import Iterator

from clipvip_jax.utils.errors import UserError

# Conditions of the disk that are not faults of the program: full, over quota, file too large, read-only, I/O error.
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
# Those that libraries report by the text alone. An I/O error in a message may come from anything that was read.
_DISK_ERROR_TEXTS = tuple(map(os.strerror, (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)))
_NAME_LENGTH = 55  # characters of a temporary file's name that are those of the file: file systems allow 255 bytes


def disk_error_reason(error: BaseException | None) -> str:
  """Returns why the disk refused a write, as in "No space left on device", if that caused an error.

  Looks at the error and at those that it was raised from: OSErrors by number, errors of TensorStore (Orbax writes
  through it), TensorFlow and ArrayRecord, which carry no number as an attribute, by their text.

  Returns:
    The reason; "" if the error has another cause.
  """
  while error is not None:
    number = error.errno if isinstance(error, OSError) else None
    if match := re.search(r"os_error_code='(\d+)'", str(error)):  # TensorStore's
      number = int(match[1])
    if number in _DISK_ERRORS:
      return os.strerror(number)
    if reason := next((text for text in _DISK_ERROR_TEXTS if text in str(error)), ""):
      return reason
    error = error.__cause__ or error.__context__
  return ""


def write_problem(error: OSError, remedy: str) -> str:
  """Returns the end of a message about a path that cannot be written: the reason, and what to do.

  Args:
    error: of the file system.
    remedy: what to do about any reason; about a full disk, freeing space comes first.
  """
  is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
  return f"cannot be written ({error.strerror or error}); {'free space, or ' if is_full else ''}{remedy}"


@contextlib.contextmanager
def atomic_path(path: pathlib.Path) -> Iterator[pathlib.Path]:
  """Yields the path of an empty file in the folder of `path`, which replaces `path` when the block succeeds.

  If the block raises, the temporary file is deleted and `path` stays as it was. If the process is killed, the next
  process that writes `path` deletes it.

  Raises:
    OSError: the folder does not exist, cannot be written or is full, or `path` is a folder; names `path`.
  """
  # Random, as process ids repeat between containers that share a file system.
  temporary = path.with_name(f".{path.name[:_NAME_LENGTH]}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
  _delete_leftovers(path)
  try:
    with temporary.open("x+b") as held:  # what is not locked was left by a killed process, on whichever machine
      with contextlib.suppress(OSError):  # a file system without locks
        fcntl.flock(held, fcntl.LOCK_SH)
      yield temporary
      temporary.replace(path)
  except OSError as error:
    is_refused_write = error.filename is None and error.errno in _DISK_ERRORS  # by write() and close()
    if error.filename != os.fspath(temporary) and not is_refused_write:
      raise
    raise OSError(error.errno, error.strerror, os.fspath(path)) from error
  finally:
    with contextlib.suppress(OSError):  # it does not exist, or the error of the block is the one to report
      temporary.unlink()


def _delete_leftovers(path: pathlib.Path) -> None:
  """Deletes the temporary files of a path that no process holds."""
  pattern = re.compile(rf"\.{re.escape(path.name[:_NAME_LENGTH])}\.\d+\.[0-9a-f]{{8}}\.tmp")
  for file in _temporary_files(path.parent):
    if pattern.fullmatch(file.name):
      with contextlib.suppress(OSError), file.open("r+b") as opened:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        file.unlink()


@functools.cache
def _temporary_files(folder: pathlib.Path) -> list[pathlib.Path]:
  """Returns the temporary files in a folder when this process first writes to it; it may have a million others."""
  return list(folder.glob(".*.tmp"))


@contextlib.contextmanager
def output_path(path: pathlib.Path, flag: str) -> Iterator[pathlib.Path]:
  """Yields as `atomic_path` does, for a file that a flag names.

  Args:
    path: the file; of a symbolic link, its target is replaced.
    flag: for error messages, such as "--html".

  Raises:
    UserError: it cannot be written, or is not a regular file.
  """
  path = path.resolve()
  if path.exists() and not path.is_file():
    raise UserError(f"{flag}={path} is not a regular file; name a regular or a new file")
  try:
    with atomic_path(path) as temporary:
      yield temporary
  except OSError as error:
    raise UserError(f"{flag}={path} {write_problem(error, 'name another file')}") from error
