"""A file of weights as read-only memory that the system fills on first use: nothing is copied by reading."""

import mmap
import pathlib

from clipvip_jax.errors import UserError


def map_file(path: pathlib.Path) -> mmap.mmap:
  """The whole file.

  Raises:
    UserError: it is not there, no file, empty, or cannot be opened.
  """
  if not path.exists():
    raise UserError(f"{path}: no such file")
  if not path.is_file():
    raise UserError(f"{path}: not a file")
  if not path.stat().st_size:
    raise UserError(f"{path}: the file is empty (0 bytes)")
  try:
    with path.open("rb") as file:
      return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
  except (OSError, ValueError) as error:
    raise UserError(f"{path} cannot be read: {error}") from error
