"""Videos in object stores, downloaded to be decoded."""

from __future__ import annotations

import functools
import os
import pathlib

from etils import epath

from clipvip_jax.utils import storage
from clipvip_jax.utils.storage_errors import TransferError


def fetch(url: str, target: pathlib.Path, offset: int = 0, size: int = 0) -> None:
  """Writes a video, an image or a folder of frames to a local path.

  Args:
    url: An object, or a folder of objects.
    target: The file or folder to create.
    offset: Offset of a part of the object in bytes.
    size: Size of the part in bytes; fewer are written at the end of the object; 0: all of the object.

  Raises:
    FileNotFoundError: There is no such object or folder.
    UserError: The bucket does not exist, the store refuses, or it cannot be reached.
    OSError: The file cannot be written.
  """
  source = epath.Path(url)
  if size:
    target.write_bytes(_read_part(url, offset, size))
    return
  try:
    storage.download(source, target)
  except FileNotFoundError:
    if not storage.list_names(source):
      raise
    storage.download_folder(source, target)


def _read_part(url: str, offset: int, size: int) -> bytes:
  begin, end = (min(position, _object_size(url)) for position in (offset, offset + size))

  def attempt() -> bytes:
    data = storage.file_system(url).cat_file(url, start=begin, end=end) if begin < end else b""
    if len(data) != end - begin:
      raise TransferError(f"{len(data)} of {end - begin} bytes")
    return data

  return storage.retry(url, attempt)


@functools.lru_cache(1024)
def _object_size(url: str) -> int:
  return int(storage.retry(url, lambda: storage.file_system(url).info(os.fspath(url)))["size"])
