"""Random access to the bytes of a file, to walk over the elements of its container."""

import contextlib
import os
import pathlib
from collections.abc import Iterator
from typing import Literal

_WINDOW = 4096  # bytes
_CHUNK = 2**16  # bytes searched at once


class OddStructureError(Exception):
  """The structure is invalid for the format or has too many elements, so that it cannot be checked."""


class ByteFile:
  """Random access to an open file; reads beyond its end give fewer bytes.

  Attributes:
    size: of the file in bytes.
  """

  def __init__(self, descriptor: int, window: int):
    """Creates access to an open file; `window`: bytes to read at once, if not more are requested."""
    self._descriptor, self.size = descriptor, os.fstat(descriptor).st_size
    self._begin, self._window, self._window_size = 0, b"", window

  def read(self, position: int, count: int) -> bytes:
    """Returns up to `count` bytes; b"" outside of the file."""
    if not 0 <= position < self.size:
      return b""
    if position < self._begin or position + count > self._begin + len(self._window):
      self._begin, self._window = position, os.pread(self._descriptor, max(count, self._window_size), position)
    return self._window[position - self._begin : position - self._begin + count]

  def number(self, position: int, count: int, order: Literal["big", "little"] = "big") -> int:
    """Returns an unsigned number of `count` bytes; 0 outside of the file."""
    return int.from_bytes(self.read(position, count), order)

  def find(self, pattern: bytes, position: int) -> int:
    """Returns the position of the next occurrence at or after `position`; the size of the file if there is none."""
    while position < self.size:
      chunk = os.pread(self._descriptor, _CHUNK, position)
      found = chunk.find(pattern)
      if found >= 0:
        return position + found
      position += max(1, len(chunk) - len(pattern) + 1)
    return self.size


@contextlib.contextmanager
def open_bytes(path: str | os.PathLike[str], window: int = _WINDOW) -> Iterator[ByteFile]:
  """Opens a file for random access; reads `window` bytes at once, if not more are requested."""
  with pathlib.Path(path).open("rb") as file:
    yield ByteFile(file.fileno(), window)
