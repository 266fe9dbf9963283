"""Local copies of files in buckets, for code that reads or writes local files.

They are in a temporary folder of the process, below the name of the bucket. Every call downloads anew, since another
process may have written the objects meanwhile.
"""

import atexit
import concurrent.futures
import contextlib
import functools
import os
import pathlib
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator

from clipvip_jax.utils import storage, transfers
from clipvip_jax.utils.errors import UserError


def local_copy(path: storage.PathLike) -> pathlib.Path:
  """Returns where the copy of a remote file or folder is, whether or not it exists; a local path is unchanged."""
  if not storage.is_remote(path):
    return pathlib.Path(path)
  return _folder() / os.fspath(path).replace("://", "/", 1)


def to_addresses(text: str) -> str:
  """Replaces the paths of copies in a text by the addresses of the objects."""
  if not _folder.cache_info().currsize:  # there are no copies
    return text
  return re.sub(rf"{re.escape(os.fspath(_folder()))}/(\w+)/", r"\1://", text)


@contextlib.contextmanager
def errors_by_address() -> Iterator[None]:
  """Names objects in place of their copies in the UserErrors of a `with` block."""
  try:
    yield
  except UserError as error:
    text = to_addresses(str(error))
    if text != str(error):
      error.args = (text,)
    raise


@functools.cache
def _folder() -> pathlib.Path:
  """Creates the folder of all copies, which is deleted when the process ends."""
  folder, process = tempfile.mkdtemp(prefix="clipvip_jax_"), os.getpid()

  def delete() -> None:
    if os.getpid() == process:  # not in a forked process
      shutil.rmtree(folder, ignore_errors=True)

  atexit.register(delete)
  return pathlib.Path(folder).resolve()


def fetch_file(path: storage.PathLike) -> pathlib.Path:
  """Downloads a file of a bucket; returns a local path unchanged.

  Returns:
    The file, which does not exist if there is no such object.

  Raises:
    UserError: the bucket cannot be read.
  """
  local = local_copy(path)
  if storage.is_remote(path):
    _update(storage.absolute(path), local)
  return local


def fetch_files(folder: storage.PathLike, names: Iterable[str]) -> pathlib.Path:
  """Downloads files of a folder in a bucket; returns a local path unchanged.

  Args:
    folder: the folder.
    names: of files in it; those that do not exist are skipped.

  Raises:
    UserError: the bucket cannot be read.
  """
  local = local_copy(folder)
  if storage.is_remote(folder):
    remote = storage.absolute(folder)
    with concurrent.futures.ThreadPoolExecutor() as pool:
      list(pool.map(lambda name: _update(remote / name, local / name), names))
  return local


def _update(remote: storage.PathLike, local: pathlib.Path) -> None:
  """Downloads a file, or deletes its copy if it does not exist."""
  local.parent.mkdir(parents=True, exist_ok=True)
  try:
    transfers.download(storage.absolute(remote), local)
  except FileNotFoundError:
    local.unlink(missing_ok=True)


def check_folder_of(path: storage.PathLike | None, flag: str) -> None:
  """Checks that the folder of a file that will be written exists, before the work whose result it is.

  Raises:
    UserError: it is a local folder that does not exist.
  """
  if path is not None and not storage.is_remote(path) and not pathlib.Path(path).resolve().parent.is_dir():
    raise UserError(f"{flag}={path}: its folder does not exist; create it, or name a file elsewhere")


@contextlib.contextmanager
def uploaded_file(path: storage.PathLike, flag: str) -> Iterator[pathlib.Path]:
  """Yields a local path whose file is uploaded to `path` when the block succeeds; a local `path` itself.

  Raises:
    UserError: the bucket cannot be written; before the block, if there is no such bucket.
  """
  local = local_copy(path)
  if not storage.is_remote(path):
    yield local
    return
  storage.check_bucket(path, flag)
  local.parent.mkdir(parents=True, exist_ok=True)
  with errors_by_address():
    yield local
  transfers.upload(local, storage.absolute(path))


@contextlib.contextmanager
def uploaded_folder(folder: storage.PathLike, flag: str, names: Iterable[str], last: str) -> Iterator[pathlib.Path]:
  """Yields a local folder whose files are uploaded when the block succeeds; a local `folder` itself.

  Args:
    folder: to write.
    flag: the option that chose it, for messages.
    names: of the files in it that the block reads; they are downloaded before it if they exist.
    last: the file that is uploaded after all others, as it shows that they are complete.

  Raises:
    UserError: the bucket cannot be read or written.
  """
  local = local_copy(folder)
  if not storage.is_remote(folder):
    yield local
    return
  storage.check_bucket(folder, flag)
  shutil.rmtree(local, ignore_errors=True)
  fetch_files(folder, names)
  with errors_by_address():
    yield local
  files = [path for path in local.rglob("*") if path.is_file()]
  for path in sorted(files, key=lambda path: (path == local / last, path)):
    transfers.upload(path, storage.absolute(folder) / path.relative_to(local).as_posix())
