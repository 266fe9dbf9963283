"""Paths on local disks and in object stores (gs://, s3://), and what an error of a store means for its user.

The one place that knows what a path is. Paths are etils', file systems are fsspec's (gcsfs, s3fs); both are imported
when they are needed, as launchers run without them. `transfers` moves the bytes.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pathlib
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from clipvip_jax.utils import storage_clients, storage_errors
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.local_paths import expand_user
from clipvip_jax.utils.log import printable

if TYPE_CHECKING:
  import fsspec
  from etils import epath

PathLike = str | os.PathLike[str]

_PACKAGES = {"gs": ("gcsfs", "gcs"), "s3": ("s3fs", "s3")}  # scheme to package and extra
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


def is_remote(path: PathLike) -> bool:
  """Returns whether a path is in an object store: gs://bucket/NAME or s3://bucket/NAME."""
  return scheme_of(path) in _PACKAGES


def scheme_of(path: PathLike) -> str:
  """Returns "gs" or "s3" of a remote path, "" of a path without a scheme, and any other scheme as it is."""
  match = _SCHEME.match(os.fspath(path))
  return match[1] if match else ""


def check_path(path: PathLike, flag: str, *, remote: bool = True, packages: bool = True) -> None:
  """Refuses a path that this program cannot use. Accesses no file and no network.

  Args:
    path: the value of `flag`.
    flag: the option that holds it, as in "--workdir" or "--config.data.data_dir".
    remote: whether gs:// and s3:// are possible.
    packages: whether the packages for them must be installed, as on the machine that does the work.

  Raises:
    UserError: `path` is an address of another kind or names no bucket, a package is missing, `path` names the home of
      an unknown user, or is not valid UTF-8.
  """
  text, value = os.fspath(path), f"{flag}={printable(path)}"
  if expand_user(text).startswith("~"):
    raise UserError(f"{value} names the home of a user that does not exist; pass an absolute path")
  if not text.isascii() and text != text.encode(errors="replace").decode():
    raise UserError(f"{value} is not valid UTF-8 in this locale; set PYTHONUTF8=1, or choose another path")
  scheme = scheme_of(text)
  if not scheme and "://" not in text:
    return
  if not remote:
    raise UserError(f"{value} is not a local path; mount the bucket and pass the path of the mount")
  if scheme not in _PACKAGES:
    raise UserError(f"{value} is neither a local path nor gs://BUCKET/NAME or s3://BUCKET/NAME; pass one of them")
  if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]", bucket_of(text)):
    raise UserError(f"{value} does not name a bucket; pass {scheme}://BUCKET/NAME")
  if re.search(r"(^|/)\.{1,2}(/|$)|[\x00-\x1f\x7f#?*\[\]\\]", text.split("://", 1)[1]):
    raise UserError(f"{value} has . or .., #, ?, *, brackets, \\ or a control character in it; choose another name")
  if packages:
    check_package(path, value)


def check_package(path: PathLike, shown: str = "") -> None:
  """Raises UserError if the package that reads a remote path is not installed; `shown` names the path."""
  package, extra = _PACKAGES[scheme_of(path)]
  if importlib.util.find_spec(package) is None:
    raise UserError(
      f"{shown or printable(path)} needs {package}, which is not installed: pip install 'clipvip_jax[{extra}]'"
    )


def absolute(path: PathLike) -> epath.Path:
  """Makes a local path absolute and expands ~; returns a remote path without a slash at its end."""
  from etils import epath

  if is_remote(path):
    storage_clients.configure(scheme_of(path))
    return epath.Path(os.fspath(path))
  return epath.Path(pathlib.Path(path).expanduser().absolute())


def file_system(path: PathLike) -> fsspec.AbstractFileSystem:
  """Returns the file system of a remote path, which etils uses as well."""
  import fsspec

  scheme = scheme_of(path)
  storage_clients.configure(scheme)
  return fsspec.filesystem("gcs", finalize_on_close=True) if scheme == "gs" else fsspec.filesystem(scheme)


def check_bucket(path: PathLike, flag: str = "") -> None:
  """Checks that the bucket of a remote path exists and can be listed; does nothing for a local path.

  Raises:
    UserError: it cannot; states why.
  """
  if is_remote(path):
    with explain_errors(path, flag):
      _list_one(path)


def _list_one(path: PathLike) -> None:
  """Lists one object of the bucket. Raises FileNotFoundError where there is no such bucket."""
  system, bucket = file_system(path), bucket_of(path)
  if hasattr(system, "call_s3"):
    system.call_s3("list_objects_v2", Bucket=bucket, MaxKeys=1)
  elif hasattr(system, "call"):
    system.call("GET", "b/{}/o", bucket, maxResults=1)


@contextlib.contextmanager
def explain_errors(path: PathLike, flag: str = "") -> Iterator[None]:
  """Converts errors of an object store in a block that reads or writes a path; passes all others.

  Args:
    path: what the block reads or writes. Nothing is converted for a local one.
    flag: the option that holds it, for the message.

  Raises:
    UserError: names the bucket, the reason and the remedy.
    FileNotFoundError: the bucket exists, and the object does not.
  """
  try:
    yield
  except UserError:
    raise
  except Exception as error:
    problem = storage_errors.diagnose(error, scheme_of(path)) if is_remote(path) else None
    if problem is None and is_remote(path) and isinstance(error, FileNotFoundError) and not _bucket_exists(path):
      problem = storage_errors.no_bucket()
    if problem is None:
      raise
    raise UserError(_describe(path, flag, problem)) from error


def _bucket_exists(path: PathLike) -> bool:
  """Returns False where the store answers that there is no such bucket."""
  try:
    _list_one(path)
  except FileNotFoundError:
    return False
  except Exception:  # the first error is the one to report
    return True
  return True


def _describe(path: PathLike, flag: str, problem: storage_errors.Problem) -> str:
  """Returns the one line that reports a problem."""
  value = f"{flag}={printable(path)}" if flag else printable(path)
  return f"{value}: the bucket {bucket_of(path)} {problem.reason}; {problem.remedy}"


def bucket_of(path: PathLike) -> str:
  """Returns the name of the bucket of a remote path."""
  return os.fspath(path).split("://", 1)[1].partition("/")[0]
