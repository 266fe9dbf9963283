"""Files that are whole or not there, whenever the process ends."""

import contextlib
import errno
import os
import pathlib
import re
import secrets
from collections.abc import Iterator

# What the file system says where no program is at fault: full, over a quota, read-only, broken.
_REFUSALS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)


def disk_error_reason(error: BaseException | None) -> str:
  """Why the file system refused a write, where that is what an error, or one behind it, comes from; "": it is not."""
  while error is not None:
    number = error.errno if isinstance(error, OSError) else None
    if found := re.search(r"os_error_code='(\d+)'", str(error)):  # TensorStore's, which Orbax writes with
      number = int(found[1])
    if number in _REFUSALS:
      return os.strerror(number)
    if os.strerror(errno.ENOSPC) in str(error):  # TensorFlow's
      return os.strerror(errno.ENOSPC)
    error = error.__cause__ or error.__context__
  return ""


@contextlib.contextmanager
def atomic_path(path: pathlib.Path) -> Iterator[pathlib.Path]:
  """A name beside `path` to write to, which takes its place when the block ends well and is removed when it does not.

  Raises:
    OSError: the folder is absent or cannot be written; what stood at `path` before stays as it was.
  """
  # In containers on one file system process numbers are alike.
  temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
  try:
    yield temporary
    temporary.replace(path)
  finally:
    temporary.unlink(missing_ok=True)
