"""The error of a video or image file that cannot be decoded."""

import os

from clipvip_jax.utils.errors import TOO_MANY_FILES, UserError

NO_SUCH_FILE = "no such file"  # a MediaError's `reason`


class MediaError(UserError):
  """A media file that is missing, unreadable or corrupt. The message is "PATH: REASON".

  Attributes:
    path: the file.
    reason: the message without the path.
  """

  def __init__(self, path: str | os.PathLike[str], reason: str):
    super().__init__(f"{os.fspath(path)}: {reason}")
    self.path, self.reason = os.fspath(path), reason

  def __reduce__(self):
    # By default an exception is unpickled from its message alone; this one crosses process boundaries.
    return type(self), (self.path, self.reason)


def file_error_reason(error: Exception) -> str:
  """Returns why a file cannot be read: an error of the system, of PyAV, or of an invalid name.

  Raises:
    Exception: `error` itself, if too many files are open: that says nothing about this one.
  """
  if getattr(error, "errno", None) in TOO_MANY_FILES:
    raise error
  return getattr(error, "strerror", None) or str(error)
