"""Files and folders on local disks and in object stores (gs://, s3://).

The one place that knows what a path is. Paths are etils', transfers are fsspec's (gcsfs, s3fs); both are imported when
they are needed, as launchers run without them.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import importlib.util
import math
import os
import pathlib
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from clipvip_jax.utils import object_checksum, storage_clients, storage_errors
from clipvip_jax.utils.atomic_write import atomic_path
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.local_paths import expand_user
from clipvip_jax.utils.log import log, printable

if TYPE_CHECKING:
  import fsspec
  from etils import epath

PathLike = str | os.PathLike[str]
_T = TypeVar("_T")

_PACKAGES = {"gs": ("gcsfs", "gcs"), "s3": ("s3fs", "s3")}  # scheme to package and extra
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
RETRY_DELAYS = (1, 2, 4, 8, 16)  # seconds between the attempts of a transfer
RETRY_SECONDS = 60.0  # after which there is no other attempt: each consists of several by the library
NOTICE_SECONDS = 20.0  # of an attempt, after which the user is told
_PART = 64 * 2**20  # bytes of a part of an upload
_THREADS = 16  # transfers at a time


def is_remote(path: PathLike) -> bool:
  """Returns whether a path is in an object store: gs://bucket/NAME or s3://bucket/NAME."""
  return _scheme(path) in _PACKAGES


def _scheme(path: PathLike) -> str:
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
  scheme = _scheme(text)
  if not scheme and "://" not in text:
    return
  if not remote:
    raise UserError(f"{value} is not a local path; mount the bucket and pass the path of the mount")
  if scheme not in _PACKAGES:
    raise UserError(f"{value} is neither a local path nor gs://BUCKET/NAME or s3://BUCKET/NAME; pass one of them")
  if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]", _bucket(text)):
    raise UserError(f"{value} does not name a bucket; pass {scheme}://BUCKET/NAME")
  if re.search(r"(^|/)\.{1,2}(/|$)|[\x00-\x1f\x7f#?*\[\]\\]", text.split("://", 1)[1]):
    raise UserError(f"{value} has . or .., #, ?, *, brackets, \\ or a control character in it; choose another name")
  if packages:
    check_package(path, value)


def check_package(path: PathLike, shown: str = "") -> None:
  """Raises UserError if the package that reads a remote path is not installed; `shown` names the path."""
  package, extra = _PACKAGES[_scheme(path)]
  if importlib.util.find_spec(package) is None:
    raise UserError(
      f"{shown or printable(path)} needs {package}, which is not installed: pip install 'clipvip_jax[{extra}]'"
    )


def absolute(path: PathLike) -> epath.Path:
  """Makes a local path absolute and expands ~; returns a remote path without a slash at its end."""
  from etils import epath

  if is_remote(path):
    storage_clients.configure(_scheme(path))
    return epath.Path(os.fspath(path))
  return epath.Path(pathlib.Path(path).expanduser().absolute())


def file_system(path: PathLike) -> fsspec.AbstractFileSystem:
  """Returns the file system of a remote path, which etils uses as well."""
  import fsspec

  scheme = _scheme(path)
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
  system, bucket = file_system(path), _bucket(path)
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
    problem = storage_errors.diagnose(error, _scheme(path)) if is_remote(path) else None
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
  return f"{value}: the bucket {_bucket(path)} {problem.reason}; {problem.remedy}"


def _bucket(path: PathLike) -> str:
  return os.fspath(path).split("://", 1)[1].partition("/")[0]


def retry(path: PathLike, action: Callable[[], _T]) -> _T:
  """Runs an action on a remote path; repeats it after transient errors, for a minute after the first of them.

  Each repetition is logged.

  Raises:
    UserError: the action failed at each attempt, or permanently.
    FileNotFoundError: the object does not exist.
  """
  storage_clients.configure(_scheme(path))  # the action may make the first client, of a path not from `absolute`
  with explain_errors(path):
    failed_at, delays = math.inf, iter(RETRY_DELAYS)
    while True:
      try:
        with _notice(path):
          return action()
      except Exception as error:
        problem, delay = storage_errors.diagnose(error, _scheme(path)), next(delays, None)
        failed_at = min(failed_at, time.monotonic())  # a transfer may take long
        is_over = time.monotonic() - failed_at > RETRY_SECONDS
        if delay is None or is_over or problem is None or not problem.transient:
          raise
        log.warning("%s: the bucket %s %s; retrying", printable(path), _bucket(path), problem.reason)
        time.sleep(delay * random.Random().uniform(0.5, 1))


@contextlib.contextmanager
def _notice(path: PathLike) -> Iterator[None]:
  """Logs a notice when a block takes longer than NOTICE_SECONDS: a large object, or a store that does not answer."""
  message = "%s: has been waiting for the bucket %s for %d seconds"
  timer = threading.Timer(NOTICE_SECONDS, log.info, (message, printable(path), _bucket(path), NOTICE_SECONDS))
  timer.daemon = True
  timer.start()
  try:
    yield
  finally:
    timer.cancel()


def upload(local: pathlib.Path, target: epath.Path) -> None:
  """Writes a file to an object, which appears or is replaced atomically. Verifies size and checksum.

  Raises:
    UserError: the store refuses it, or cannot be reached.
    OSError: the file cannot be read.
  """

  def attempt() -> None:
    system, name = file_system(target), os.fspath(target)
    options = {} if not hasattr(system, "call_s3") else {"chunksize": _PART}
    system.put_file(str(local), name, **options)
    object_checksum.verify(local, system, system.info(name))

  retry(target, attempt)


def download(source: epath.Path, local: pathlib.Path) -> None:
  """Writes an object to a file atomically, in an existing folder. Verifies size and checksum.

  Raises:
    UserError: the store refuses it, or cannot be reached.
    FileNotFoundError: there is no such object.
    OSError: the file cannot be written.
  """

  def attempt() -> None:
    system, name = file_system(source), os.fspath(source)
    info = system.info(name)
    if info["type"] != "file":
      raise FileNotFoundError(f"{name} is not a file")
    with atomic_path(local) as temporary:
      system.get_file(name, str(temporary))
      object_checksum.verify(temporary, system, info)

  retry(source, attempt)


def upload_folder(local: pathlib.Path, target: epath.Path) -> None:
  """Uploads all files in a folder, and in its folders, in threads; see `upload`."""
  files = [path for path in sorted(local.rglob("*")) if path.is_file()]
  _in_threads(lambda path: upload(path, target / path.relative_to(local).as_posix()), files)


def download_folder(source: epath.Path, local: pathlib.Path, select: Callable[[str], bool] = lambda name: True) -> None:
  """Downloads the objects below a path into a folder, in threads; see `download`.

  Args:
    source: the path.
    local: the folder, which is created.
    select: which objects, by name relative to `source`.
  """
  local.mkdir(parents=True, exist_ok=True)
  names = [name for name in list_names(source) if select(name)]
  for folder in sorted({(local / name).parent for name in names}):
    folder.mkdir(parents=True, exist_ok=True)
  _in_threads(lambda name: download(source / name, local / name), names)


def _in_threads(action: Callable[[Any], None], items: list[Any]) -> None:
  with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
    futures = [pool.submit(action, item) for item in items]
    try:
      for future in futures:
        future.result()
    finally:
      pool.shutdown(cancel_futures=True)


def list_names(path: epath.Path) -> list[str]:
  """Returns the sorted names of all objects below a remote path, relative to it.

  Raises:
    UserError: the store refuses, or a name would lead out of a folder.
  """

  def attempt() -> list[str]:
    prefix = os.fspath(path).split("://", 1)[1].rstrip("/") + "/"
    names = [name.lstrip("/") for name in file_system(path).find(os.fspath(path))]
    return sorted(name.removeprefix(prefix) for name in names if name.startswith(prefix) and not name.endswith("/"))

  try:
    names = retry(path, attempt)
  except FileNotFoundError:
    return []
  for name in names:
    if {"", ".", ".."} & set(name.split("/")) or "\0" in name:
      raise UserError(f"{path} holds an object with the name {printable(name)!r}, which no file has; remove it")
  return names
