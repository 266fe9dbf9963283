"""Checks of paths that a command reads or writes through the local file system."""

import os

from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import printable


def require_local_path(path: str | os.PathLike[str], flag: str) -> None:
  """Refuses the address of an object store, such as gs://bucket/run or s3://bucket/run.

  Args:
    path: the value of `flag`.
    flag: the option that holds it, as in "--workdir" or "--config.data.data_dir".

  Raises:
    UserError: `path` is an address, not a path.
  """
  if "://" in os.fspath(path):
    raise UserError(f"{flag}={printable(path)} is not a local path; mount the bucket and pass the path of the mount")
