"""Transfers from and to object stores (gs://, s3://): repeated after transient errors, verified by size and checksum.

Transfers are fsspec's (gcsfs, s3fs).
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import math
import os
import pathlib
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from clipvip_jax.utils import object_checksum, storage, storage_clients, storage_errors
from clipvip_jax.utils.atomic_write import atomic_path
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import log, printable

if TYPE_CHECKING:
  from etils import epath

_T = TypeVar("_T")

RETRY_DELAYS = (1, 2, 4, 8, 16)  # seconds between the attempts of a transfer
RETRY_SECONDS = 60.0  # after which there is no other attempt: each consists of several by the library
NOTICE_SECONDS = 20.0  # of an attempt, after which the user is told
_PART = 64 * 2**20  # bytes of a part of an upload
_THREADS = 16  # transfers at a time


def retry(path: storage.PathLike, action: Callable[[], _T]) -> _T:
  """Runs an action on a remote path; repeats it after transient errors, for a minute after the first of them.

  Each repetition is logged.

  Raises:
    UserError: the action failed at each attempt, or permanently.
    FileNotFoundError: the object does not exist.
  """
  # The action may make the first client, of a path not from `absolute`.
  storage_clients.configure(storage.scheme_of(path))
  with storage.explain_errors(path):
    failed_at, delays = math.inf, iter(RETRY_DELAYS)
    while True:
      try:
        with _notice(path):
          return action()
      except Exception as error:
        problem, delay = storage_errors.diagnose(error, storage.scheme_of(path)), next(delays, None)
        failed_at = min(failed_at, time.monotonic())  # a transfer may take long
        is_over = time.monotonic() - failed_at > RETRY_SECONDS
        if delay is None or is_over or problem is None or not problem.transient:
          raise
        log.warning("%s: the bucket %s %s; retrying", printable(path), storage.bucket_of(path), problem.reason)
        time.sleep(delay * random.Random().uniform(0.5, 1))


@contextlib.contextmanager
def _notice(path: storage.PathLike) -> Iterator[None]:
  """Logs a notice when a block takes longer than NOTICE_SECONDS: a large object, or a store that does not answer."""
  message = "%s: has been waiting for the bucket %s for %d seconds"
  timer = threading.Timer(NOTICE_SECONDS, log.info, (message, printable(path), storage.bucket_of(path), NOTICE_SECONDS))
  timer.daemon = True
  timer.start()
  try:
    yield
  finally:
    timer.cancel()


def exists(path: storage.PathLike) -> bool:
  """Returns whether there is a file or folder, local or remote.

  Raises:
    UserError: the object store refuses, or cannot be reached.
  """
  if not storage.is_remote(path):
    return pathlib.Path(path).exists()
  try:
    retry(path, lambda: storage.file_system(path).info(os.fspath(path)))
  except FileNotFoundError:
    return False
  return True


def upload(local: pathlib.Path, target: epath.Path) -> None:
  """Writes a file to an object, which appears or is replaced atomically. Verifies size and checksum.

  Raises:
    UserError: the store refuses it, or cannot be reached.
    OSError: the file cannot be read.
  """

  def attempt() -> None:
    system, name = storage.file_system(target), os.fspath(target)
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
    system, name = storage.file_system(source), os.fspath(source)
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
    names = [name.lstrip("/") for name in storage.file_system(path).find(os.fspath(path))]
    return sorted(name.removeprefix(prefix) for name in names if name.startswith(prefix) and not name.endswith("/"))

  try:
    names = retry(path, attempt)
  except FileNotFoundError:
    return []
  for name in names:
    if {"", ".", ".."} & set(name.split("/")) or "\0" in name:
      raise UserError(f"{path} holds an object with the name {printable(name)!r}, which no file has; remove it")
  return names
