"""Files that are whole or not there, whenever the process ends."""

import contextlib
import os
import pathlib
from collections.abc import Iterator


@contextlib.contextmanager
def whole(path: pathlib.Path) -> Iterator[pathlib.Path]:
  """A name beside `path` to write to, which takes its place when the block ends well and is removed when it does not.

  Raises:
    OSError: the folder is absent or cannot be written; what stood at `path` before stays as it was.
  """
  temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
  try:
    yield temporary
    temporary.replace(path)
  finally:
    temporary.unlink(missing_ok=True)
