"""Memory-mapped files: read-only memory that the operating system fills on first access, without a copy."""

import mmap
import pathlib
import stat

from clipvip_jax.utils.errors import UserError


def map_file(path: pathlib.Path) -> mmap.mmap:
  """Maps a file into memory.

  Replacing the file while it is mapped is safe; truncating it kills the process on the next access.

  Raises:
    UserError: the path is missing, empty, not a regular file, or cannot be opened.
  """
  try:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):  # a folder, or a pipe, on which open() would block
      raise UserError(f"{path} is not a regular file; pass a file of weights")
    if not status.st_size:
      raise UserError(f"{path} is empty (0 bytes); download it again")
    with path.open("rb") as file:
      return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
  except (FileNotFoundError, NotADirectoryError) as error:
    raise UserError(f"{path}: no such file; check the path") from error
  except (OSError, ValueError) as error:
    raise UserError(f"{path} cannot be read: {error}") from error
