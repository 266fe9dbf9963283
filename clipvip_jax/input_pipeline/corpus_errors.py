"""The error of a corpus whose metadata cannot be read."""

import os

from clipvip_jax.utils.errors import UserError, first_line


def metadata_error(corpus: str | os.PathLike[str], error: Exception) -> UserError:
  """Returns the error of a corpus: corrupt, or not to be read on this machine, where deleting it would be wrong.

  Args:
    corpus: names it in the message.
    error: TFDS raises those of any type for corrupt files.
  """
  if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
    return UserError(f"{corpus} cannot be read ({first_line(error)}); check its permissions, the disk, and ulimit -n")
  reason = f"{type(error).__name__}: {first_line(error)}"
  return UserError(f"{corpus} is corrupt ({reason}); delete it and build the corpus again")
