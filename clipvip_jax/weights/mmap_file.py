"""Memory-mapped files: read-only memory that the operating system fills on first access, without a copy."""

import mmap
import pathlib
import stat
from collections.abc import Iterator

import numpy as np

from clipvip_jax.utils import placeholder_files
from clipvip_jax.utils.errors import UserError

BLOCK_BYTES = 128 << 20  # of smaller ones, starting threads for each costs more than a matrix product with a vector
RESIDENT_BYTES = 256 << 20  # of an array that is read in blocks; more would displace other data from memory
DOWNLOAD_AGAIN = "download it again"


def map_file(path: pathlib.Path, remedy: str = DOWNLOAD_AGAIN) -> mmap.mmap:
  """Maps a file into memory.

  Replacing the file while it is mapped is safe; truncating it kills the process on the next access.

  Args:
    path: of the file.
    remedy: what to do about an empty file, for the message.

  Raises:
    UserError: the path is missing, empty, not a regular file, a placeholder of a failed download, or cannot be opened.
  """
  try:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):  # a folder, or a pipe, on which open() would block
      raise UserError(f"{path} is not a regular file; pass a file of weights")
    if not status.st_size:
      raise UserError(f"{path} is empty (0 bytes); {remedy}")
    with path.open("rb") as file:
      if placeholder := placeholder_files.describe(file.read(placeholder_files.START_BYTES)):
        raise UserError(f"{path} is {placeholder}")
      return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
  except (FileNotFoundError, NotADirectoryError) as error:
    raise UserError(f"{path}: no such file; check the path") from error
  except (OSError, ValueError) as error:
    raise UserError(f"{path} cannot be read: {error}") from error


def iterate_blocks(array: np.ndarray) -> Iterator[np.ndarray]:
  """Yields consecutive rows of an array [N, ...] in views of at most 128 MiB, or of one row.

  Of a view of a mapped file, at most 256 MiB and the current block stay in memory, however large the file is. A block
  is valid until the next one.
  """
  row_bytes = max(array.nbytes // max(len(array), 1), 1)
  num_rows = max(BLOCK_BYTES // row_bytes, 1)
  for start in range(0, len(array), num_rows):
    block = array[start : start + num_rows]
    yield block
    if start * row_bytes >= RESIDENT_BYTES:
      _release(block)


def _release(array: np.ndarray) -> None:
  """Returns the pages of a view of a mapped file to the operating system, which reads them again on access."""
  base: object = array
  while isinstance(base, np.ndarray):
    base = base.base
  mapping = base.obj if isinstance(base, memoryview) else base
  if not isinstance(mapping, mmap.mmap) or not hasattr(mmap, "MADV_DONTNEED"):
    return
  offset = array.ctypes.data - np.frombuffer(mapping, np.uint8).ctypes.data
  start = offset // mmap.PAGESIZE * mmap.PAGESIZE
  mapping.madvise(mmap.MADV_DONTNEED, start, offset + array.nbytes - start)
