"""Files of a build, on local disks and in object stores (gs://, s3://)."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pathlib
import sys
import tempfile
from collections.abc import Iterator

from etils import epath

from clipvip_jax.utils import atomic_write, log, storage, transfers
from clipvip_jax.utils.errors import TOO_MANY_FILES, UserError
from clipvip_jax.utils.local_paths import find_path
from clipvip_jax.utils.storage_errors import TransferError


def find_video(address: str) -> str:
  """Returns `local_paths.find_path` of a local path; returns a URL unchanged."""
  return address if storage.is_remote(address) else find_path(address)


def read_text(path: epath.Path) -> str:
  """Reads a text file.

  Raises:
    FileNotFoundError: it does not exist.
    UserError: the object store refuses, or cannot be reached.
  """
  if not storage.is_remote(path):
    return path.read_text(encoding="utf-8")
  system, name = storage.file_system(path), os.fspath(path)

  def attempt() -> bytes:
    size, content = system.info(name)["size"], system.cat_file(name)
    if len(content) != size:
      raise TransferError(f"{len(content)} of {size} bytes")
    return bytes(content)

  return transfers.retry(path, attempt).decode()


def file_state(address: str | os.PathLike[str]) -> list[int]:
  """Returns size in bytes and modification time of a file, or of all files in a folder; [] if it does not exist.

  For an object, the second number changes with the content in place of the time.
  """
  try:
    if not storage.is_remote(address):
      path = pathlib.Path(address)
      stats = [file.stat() for file in (sorted(path.iterdir()) if path.is_dir() else [path])]
      return [number for stat in stats for number in (stat.st_size, stat.st_mtime_ns)]
    info = transfers.retry(address, lambda: storage.file_system(address).info(os.fspath(address)))
    version = str(info.get("md5Hash") or info.get("ETag") or info.get("generation"))
    return [int(info["size"] or 0), int(hashlib.sha256(version.encode()).hexdigest()[:12], 16)]
  except OSError:
    return []


def glob(folder: epath.Path, pattern: str) -> list[epath.Path]:
  """Returns the sorted paths in a folder that match. Special characters in the folder's own name are literal."""
  if storage.is_remote(folder):
    return sorted(folder.glob(pattern))
  return sorted(epath.Path(path) for path in pathlib.Path(folder).glob(pattern))


def make_folder(folder: epath.Path) -> None:
  """Creates a local folder and its parents; object stores have none."""
  if not storage.is_remote(folder):
    folder.mkdir(parents=True, exist_ok=True)


def delete(path: epath.Path) -> None:
  """Deletes a file if it exists."""
  if not storage.is_remote(path):
    path.unlink(missing_ok=True)
    return
  with contextlib.suppress(FileNotFoundError):
    transfers.retry(path, lambda: storage.file_system(path).rm_file(os.fspath(path)))


def delete_folder(folder: epath.Path, first: str = "") -> None:
  """Deletes a folder if it exists.

  Args:
    folder: the folder.
    first: name of the file without which the others are not used; deleted first.
  """
  if not storage.is_remote(folder):
    if folder.exists():
      folder.rmtree()
    return
  names = transfers.list_names(folder)
  for name in sorted(names, key=lambda name: name != first):
    delete(folder / name)


@contextlib.contextmanager
def atomic_path(path: epath.Path) -> Iterator[pathlib.Path]:
  """Yields a local temporary path whose content is committed atomically to `path` if the block succeeds.

  Raises:
    OSError: the file cannot be written.
    UserError: the object store refuses, or cannot be reached.
  """
  if not storage.is_remote(path):
    with atomic_write.atomic_path(pathlib.Path(path)) as temporary:
      yield temporary
    return
  with tempfile.TemporaryDirectory() as folder:
    temporary = pathlib.Path(folder) / path.name
    yield temporary
    transfers.upload(temporary, path)


def disk_error(folder: epath.Path, error: Exception) -> UserError:
  """Returns a UserError for an error of a build's disk, a full one for example, or for too many open files."""
  reason = atomic_write.disk_error_reason(error) or getattr(error, "strerror", None) or error
  too_many = getattr(error, "errno", None) in TOO_MANY_FILES
  remedy = "raise the limit with ulimit -n" if too_many else "free disk space or fix permissions"
  return UserError(f"{folder}: {reason}. Completed shards are kept; {remedy}, then run the build again to resume")


@contextlib.contextmanager
def redirect_stderr(path: pathlib.Path) -> Iterator[None]:
  """Appends standard error of this process and its children to a local file."""
  original = os.dup(2)
  try:
    with path.open("ab") as file:
      os.dup2(file.fileno(), 2)
    yield
  finally:
    log.flush_output(sys.stderr)  # what the file refuses is lost, and not printed later
    os.dup2(original, 2)
    os.close(original)


def link_or_copy(path: epath.Path, target: epath.Path) -> None:
  """Creates a hard link `target` to a file, or a copy where links are not possible.

  Raises:
    UserError: the object store refuses, or cannot be reached.
  """
  from_store, to_store = storage.is_remote(path), storage.is_remote(target)
  if from_store and to_store:  # copied by the store
    transfers.retry(target, lambda: storage.file_system(target).cp_file(os.fspath(path), os.fspath(target)))
  elif to_store:
    transfers.upload(pathlib.Path(path), target)
  elif from_store:
    transfers.download(path, pathlib.Path(target))
  else:
    try:
      os.link(path, target)
    except OSError:  # another file system, or one without links
      path.copy(target, overwrite=True)
