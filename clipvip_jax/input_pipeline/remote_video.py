"""Videos in object stores, downloaded to be decoded: to a given path, or to a copy that exists while it is read."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import os
import pathlib
import shutil
import tempfile
import threading
from collections.abc import Iterator

from etils import epath

from clipvip_jax.input_pipeline.media_error import NO_SUCH_FILE, MediaError
from clipvip_jax.utils import storage, transfers
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.storage_errors import TransferError

_MAX_UNUSED = 4  # copies that are kept after they were read: consecutive clips are often parts of one video


def fetch(url: str, target: pathlib.Path, offset: int = 0, size: int = 0) -> None:
  """Writes a video, an image or a folder of frames to a local path.

  Args:
    url: an object, or a folder of objects.
    target: the file or folder to create.
    offset: offset of a part of the object in bytes.
    size: size of the part in bytes; fewer are written at the end of the object; 0: all of the object.

  Raises:
    FileNotFoundError: there is no such object or folder.
    UserError: the bucket does not exist, the store refuses, or it cannot be reached; or the file cannot be written.
  """
  source = epath.Path(url)
  try:
    if size:
      target.write_bytes(_read_part(url, offset, size))
    else:
      _download(source, target)
  except FileNotFoundError:
    raise
  except OSError as error:
    raise _copy_error(url, target.parent, error) from error


def _copy_error(url: str, folder: storage.PathLike, error: OSError) -> UserError:
  return UserError(
    f"{url}: cannot be copied to {folder} ({error.strerror or error}); set TMPDIR to a folder with more space"
  )


def _download(source: epath.Path, target: pathlib.Path) -> None:
  try:
    transfers.download(source, target)
  except FileNotFoundError:
    if not transfers.list_names(source):
      raise
    transfers.download_folder(source, target)


def _read_part(url: str, offset: int, size: int) -> bytes:
  begin, end = (min(position, _object_size(url)) for position in (offset, offset + size))

  def attempt() -> bytes:
    data = storage.file_system(url).cat_file(url, start=begin, end=end) if begin < end else b""
    if len(data) != end - begin:
      raise TransferError(f"{len(data)} of {end - begin} bytes")
    return data

  return transfers.retry(url, attempt)


@functools.lru_cache(1024)
def _object_size(url: str) -> int:
  return int(transfers.retry(url, lambda: storage.file_system(url).info(os.fspath(url)))["size"])


@contextlib.contextmanager
def local_media(video: storage.PathLike) -> Iterator[pathlib.Path]:
  """Yields a local path of a video, an image or a folder of frames; of one in a bucket, a copy for this block.

  Raises:
    MediaError: there is no such object; or an error of the block, which then names the object in place of the copy.
    UserError: the bucket does not exist, the store refuses, or it cannot be reached; or the copy cannot be written.
  """
  if not storage.is_remote(video):
    yield pathlib.Path(video)
    return
  try:
    copies = _copies()
  except OSError as error:  # says nothing about the video
    raise _copy_error(os.fspath(video), "a temporary folder", error) from error
  with copies.use(os.fspath(video)) as path:
    try:
      yield path
    except MediaError as error:
      raise MediaError(video, error.reason) from error


@dataclasses.dataclass
class _Copy:
  folder: str = ""  # empty until it is complete
  num_readers: int = 0
  lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)  # held while it is downloaded


class _Copies:
  """Copies of objects in the system's temporary folder, shared by the threads of this process.

  The least recently used ones are deleted when they have no reader, and all of them when the process ends.
  """

  def __init__(self) -> None:
    self._folder = tempfile.TemporaryDirectory(prefix="clipvip_jax_videos_")
    self._lock = threading.Lock()
    self._copies: collections.OrderedDict[str, _Copy] = collections.OrderedDict()

  @contextlib.contextmanager
  def use(self, url: str) -> Iterator[pathlib.Path]:
    """Yields the path of a copy, which is downloaded if absent and not deleted within the block."""
    with self._lock:
      copy = self._copies.setdefault(url, _Copy())
      self._copies.move_to_end(url)
      copy.num_readers += 1
    try:
      with copy.lock:
        copy.folder = copy.folder or self._download(url)
      yield pathlib.Path(copy.folder, pathlib.PurePosixPath(url).name)
    finally:
      with self._lock:
        copy.num_readers -= 1
        unused = [url for url, copy in self._copies.items() if not copy.num_readers]
        outdated = [self._copies.pop(url).folder for url in unused[: max(0, len(unused) - _MAX_UNUSED)]]
      for folder in filter(None, outdated):
        shutil.rmtree(folder, ignore_errors=True)

  def _download(self, url: str) -> str:
    try:
      folder = tempfile.mkdtemp(dir=self._folder.name)
    except OSError as error:
      raise _copy_error(url, self._folder.name, error) from error
    try:
      fetch(url, pathlib.Path(folder, pathlib.PurePosixPath(url).name))
    except BaseException as error:
      shutil.rmtree(folder, ignore_errors=True)
      if isinstance(error, FileNotFoundError):
        raise MediaError(url, NO_SUCH_FILE) from error
      raise
    return folder


@functools.cache
def _copies() -> _Copies:
  return _Copies()
