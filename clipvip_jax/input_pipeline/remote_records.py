"""Random access to the records of a split in an object store.

Runs in worker processes: does not import JAX or TensorFlow.
"""

from __future__ import annotations

import bisect
import collections
import dataclasses
import itertools
import math
import os
import pathlib
import tempfile
import threading
from collections.abc import Sequence
from typing import Any

from clipvip_jax.input_pipeline.file_cache import FileCache, RemoteFile
from clipvip_jax.utils import storage, transfers
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import log
from clipvip_jax.utils.object_checksum import recorded_checksum

DEFAULT_CACHE_GB = 100.0
_MAX_READERS = 128  # open files of a process
_READER_OPTIONS = "readahead_buffer_size:0"  # records are read in random order
_READER_BUFFER = 2**15  # bytes


@dataclasses.dataclass(frozen=True)
class RecordStore:
  """The records of a corpus in an object store.

  Attributes:
    folder: address of the corpus.
    cache: for its files; None: ArrayRecord reads them in the store.
    metadata: the local folder with its other files, deleted with this object.
  """

  folder: str
  cache: FileCache | None
  metadata: tempfile.TemporaryDirectory[str] | None = None

  def source(self, files: Sequence[tuple[str, int]]) -> Sequence[bytes]:
    """Returns the serialised records of a split.

    Args:
      files: address and number of records of each file, in order.

    Raises:
      UserError: a file is missing, the store refuses or cannot be reached, or the cache is too small.
    """
    if self.cache is not None:
      return CachedRecords(_describe_files(self.folder, files), self.cache)
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    return ArrayRecordDataSource([f"{url}[0:{count}]" for url, count in files])


def open_cache(cache_dir: str, cache_gb: float, url: str, flag: str) -> FileCache | None:
  """Returns the cache for a corpus in an object store.

  Args:
    cache_dir: its folder; "": none for gs://, which ArrayRecord reads by itself; for s3://, which it does not, one in
      the system's temporary folder.
    cache_gb: limit of its size in 10^9 bytes.
    url: of the corpus.
    flag: beginning of the names of the options that hold the values, as in "--config.data.cache_".

  Raises:
    UserError: `cache_dir` is not a local path, or `cache_gb` is not positive.
  """
  if not 0 < cache_gb < math.inf:
    raise UserError(f"{flag}gb={cache_gb} is out of range; use a number of 10^9 bytes above 0")
  storage.check_path(cache_dir, f"{flag}dir", remote=False)
  if not cache_dir:
    if url.startswith("gs://"):
      return None
    cache_dir = str(pathlib.Path(tempfile.gettempdir(), f"clipvip_jax_cache_{os.getuid()}"))
  return FileCache(pathlib.Path(cache_dir).expanduser().absolute(), int(cache_gb * 1e9))


def _describe_files(folder: str, files: Sequence[tuple[str, int]]) -> list[RemoteFile]:
  entries = transfers.retry(folder, lambda: storage.file_system(folder).ls(folder, detail=True))
  infos = {entry["name"].rpartition("/")[2]: entry for entry in entries}
  described = []
  for url, count in files:
    info = infos.get(url.rpartition("/")[2])
    if info is None:
      raise UserError(f"{url} is missing; restore the file, or build the corpus again")
    described.append(RemoteFile(url, int(info["size"]), recorded_checksum(info), count))
  return described


class CachedRecords(Sequence[bytes]):
  """Serialised records of files that are read through a cache."""

  def __init__(self, files: Sequence[RemoteFile], cache: FileCache):
    """Downloads nothing yet.

    Args:
      files: in order.
      cache: for their copies.

    Raises:
      UserError: the cache is too small, or its folder cannot be written.
    """
    self._files, self._cache = list(files), cache.fitted(list(files))
    self._stops = list(itertools.accumulate(file.num_records for file in files))
    self._lock, self._readers = threading.Lock(), collections.OrderedDict[RemoteFile, tuple[int, Any]]()
    if (total := sum(file.size for file in self._files)) > self._cache.max_bytes:
      is_disk = self._cache.max_bytes < cache.max_bytes
      log.warning(
        "%s=%g is less than the %.3g GB of the split: files will be downloaded again and again; %s",
        f"the space of data.cache_dir={cache.folder} in GB" if is_disk else "data.cache_gb",
        *(self._cache.max_bytes / 1e9, total / 1e9),
        "choose a folder with more" if is_disk else "raise it",
      )

  def __getstate__(self) -> dict[str, Any]:
    return {"files": self._files, "cache": self._cache, "stops": self._stops}

  def __setstate__(self, state: dict[str, Any]) -> None:
    self._files, self._cache, self._stops = state["files"], state["cache"], state["stops"]
    self._lock, self._readers = threading.Lock(), collections.OrderedDict()

  def __len__(self) -> int:
    return self._stops[-1] if self._stops else 0

  def __getitem__(self, index: Any, /) -> Any:
    """Reads a record.

    Raises:
      UserError: the store refuses or cannot be reached, or the cache cannot be written.
      RuntimeError: the file is corrupt, also after it was downloaded again.
    """
    number = bisect.bisect(self._stops, index)
    file = self._files[number]
    position = index - (self._stops[number] - file.num_records)
    with self._lock:
      try:
        return self._read(file, position)
      except (RuntimeError, IndexError):
        log.warning("the copy of %s in %s cannot be read; downloading it again", file.url, self._cache.folder)
        self._close(file)
        self._cache.discard(file)
        return self._read(file, position)

  def __getitems__(self, indices: Sequence[int]) -> list[bytes]:
    """Reads records; see `__getitem__`."""
    return [self[index] for index in indices]

  def _read(self, file: RemoteFile, position: int) -> bytes:
    with self._cache.use(file) as path:
      return self._reader(file, path).read([position])[0]

  def _reader(self, file: RemoteFile, path: pathlib.Path) -> Any:
    """Returns the reader of a file; opens it if it is not open, or if the file was deleted and downloaded since.

    Raises:
      RuntimeError: the file is corrupt, or holds another number of records.
    """
    from array_record.python.array_record_module import ArrayRecordReader

    inode = path.stat().st_ino
    if file in self._readers and self._readers[file][0] == inode:
      self._readers.move_to_end(file)
      return self._readers[file][1]
    for other in [other for other, _ in self._readers.items() if not self._cache.holds(other)]:
      self._close(other)  # an open reader keeps the disk space of a deleted file
    while len(self._readers) >= _MAX_READERS:
      self._close(next(iter(self._readers)))
    self._close(file)
    reader = ArrayRecordReader(os.fspath(path), _READER_OPTIONS, file_reader_buffer_size=_READER_BUFFER)
    if (number := reader.num_records()) != file.num_records:
      reader.close()
      raise RuntimeError(f"it holds {number} records, not {file.num_records}")
    self._readers[file] = inode, reader
    return reader

  def _close(self, file: RemoteFile) -> None:
    if file in self._readers:
      self._readers.pop(file)[1].close()
