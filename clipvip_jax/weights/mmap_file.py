"""A file of weights as read-only memory that the system fills on first use: nothing is copied by reading."""

import mmap
import pathlib
import stat

from clipvip_jax.utils.errors import UserError


def map_file(path: pathlib.Path) -> mmap.mmap:
  """The whole file. Whoever makes it shorter while it is in use ends the process; replacing it is harmless.

  Raises:
    UserError: it is not there, no file, empty, or cannot be opened.
  """
  try:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):  # a folder; or a pipe, where opening would wait for ever
      raise UserError(f"{path}: not a file")
    if not status.st_size:
      raise UserError(f"{path}: the file is empty (0 bytes)")
    with path.open("rb") as file:
      return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
  except (FileNotFoundError, NotADirectoryError) as error:
    raise UserError(f"{path}: no such file") from error
  except (OSError, ValueError) as error:
    raise UserError(f"{path} cannot be read: {error}") from error


def printable_value(value: object) -> str:
  """What a file holds, made fit for a message: one short line of printable characters."""
  text = str(value)
  if not text.isprintable():
    text = text.encode("unicode_escape").decode()
  return text if len(text) <= 160 else f"{text[:157]}..."
