"""JSON lines of many items in files that are committed atomically: resumable, divisible among machines.

FOLDER/STEM-00003-of-00012.jsonl holds a header, {"header": {...}}, and the row of each of its items, in the order of
the items and not of their arrival. A file exists only when it is complete, and its bytes depend on the header and the
rows alone: not on interruptions, nor on how many machines share the files.
"""

import contextlib
import dataclasses
import fcntl
import json
import os
import pathlib
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from clipvip_jax.utils import bucket_copies, lease, storage, transfers
from clipvip_jax.utils.atomic_write import atomic_path
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import log, printable

_HEADER = "header"
_LOCK = ".lock"
_MAX_PARTS = 100_000
_MAX_SHOWN = 60  # characters of a field of the header in an error message

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Part:
  """One of several equal parts of the files, each written by another machine: number `index` of `count`, from 1."""

  index: int = 1
  count: int = 1

  @classmethod
  def parse(cls, text: str, flag: str = "--shard") -> "Part":
    """Parses I/N.

    Args:
      text: as in "2/8", the second of eight parts.
      flag: option that holds it, for the error message.

    Raises:
      UserError: it is not of this form, or I is not from 1 to N.
    """
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text, re.ASCII)
    index, count = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= index <= count <= _MAX_PARTS:
      last = f"{count or 8}/{count or 8}"
      raise UserError(
        f"{flag}={printable(text, _MAX_SHOWN)} is not I/N with I from 1 to N: {flag}=1/{count or 8} is the first,"
        f" {flag}={last} the last"
      )
    return cls(index, count)


@dataclasses.dataclass(frozen=True)
class JsonShards:
  """Files of the rows of a list of items.

  Attributes:
    folder: of the files, local or in a bucket; created by `locked`.
    stem: first part of the files' names.
    header: of each file, JSON values; what determines the rows, so that files with another header are refused.
    num_items: of the list.
    items_per_file: the most that an interruption loses.
    flag: option that names the folder, for error messages.
  """

  folder: pathlib.PurePath
  stem: str
  header: Mapping[str, Any]
  num_items: int
  items_per_file: int
  flag: str = "--out"

  @property
  def num_files(self) -> int:
    """Number of files of all parts together."""
    return -(-self.num_items // self.items_per_file)

  @property
  def local(self) -> pathlib.Path:
    """The folder, or the local copy of one in a bucket."""
    return bucket_copies.local_copy(self.folder)

  def path(self, number: int) -> pathlib.Path:
    """Returns the local path of file `number`, from 0."""
    return self.local / f"{self.stem}-{number:05}-of-{self.num_files:05}.jsonl"

  def items(self, number: int) -> range:
    """Returns the indices of the items in file `number`."""
    start = number * self.items_per_file
    return range(start, min(start + self.items_per_file, self.num_items))

  def files(self, part: Part = Part()) -> range:
    """Returns the numbers of the files of a part; consecutive, and of all parts equally many, or one more."""
    return range(*((part.index - 1 + i) * self.num_files // part.count for i in (0, 1)))

  def read(self, number: int) -> list[Row] | None:
    """Reads the rows of a file.

    Returns:
      One row per item; None if the file does not exist, or is not complete because it was changed since.

    Raises:
      UserError: the file has another header: it belongs to other items or settings.
    """
    path = self.path(number)
    try:
      lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")  # texts may contain other line ends
    except FileNotFoundError:
      return None
    except UnicodeDecodeError:
      lines = []
    try:
      header, *rows = map(json.loads, lines)
      self._check_header(header[_HEADER], path)
    except (ValueError, RecursionError, KeyError, TypeError):
      header, rows = None, []
    if header is None or len(rows) != len(self.items(number)) or not all(isinstance(row, dict) for row in rows):
      log.warning("%s is corrupt; writing it again", bucket_copies.to_addresses(os.fspath(path)))
      return None
    return rows

  def write(self, number: int, rows: Sequence[Row]) -> None:
    """Writes a file atomically, with one row per item.

    Raises:
      UserError: the file system or the bucket refuses to.
    """
    assert len(rows) == len(self.items(number)), f"{len(rows)} rows of {len(self.items(number))} items"
    path = self.path(number)
    try:
      with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for row in ({_HEADER: self.header}, *rows):
          file.write(json.dumps(row, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
    except OSError as error:
      raise UserError(
        f"{path}: {error.strerror or error}; complete files are kept: free disk space or fix permissions, then run the"
        " command again"
      ) from error
    self.publish(path)

  def publish(self, path: pathlib.Path) -> None:
    """Uploads a file of `local`, if the folder is in a bucket.

    Raises:
      UserError: the bucket cannot be written.
    """
    if storage.is_remote(self.folder):
      transfers.upload(path, storage.absolute(self.folder) / path.name)

  def check_written(self, part: Part) -> None:
    """Checks that no file of a part is missing, after all were written.

    Raises:
      UserError: one is.
    """
    if missing := [path for number in self.files(part) if not (path := self.path(number)).exists()]:
      raise UserError(f"{missing[0]} was deleted by another program; run the same command again to write it again")

  def pull(self, part: Part | None = None) -> None:
    """Downloads the files from a bucket, except for those of a part, which this process writes.

    Raises:
      UserError: the bucket cannot be read.
    """
    if storage.is_remote(self.folder):
      own = {self.path(number).name for number in self.files(part)} if part else set()
      pattern = re.compile(rf"{re.escape(self.stem)}-\d+-of-\d+\.jsonl")
      transfers.download_folder(
        storage.absolute(self.folder), self.local, lambda name: bool(pattern.fullmatch(name)) and name not in own
      )

  @contextlib.contextmanager
  def locked(self, part: Part = Part()) -> Iterator[None]:
    """Creates the folder, and locks the files of a part against other processes inside a `with` block.

    In a bucket, only processes with the same part exclude each other.

    Raises:
      UserError: another process writes one of these files, files of another list are in the folder, or it cannot be
        written.
    """
    if storage.is_remote(self.folder):
      storage.check_bucket(self.folder, self.flag)
      lock = storage.absolute(self.folder) / f"{_LOCK}-{part.index}-of-{part.count}"
      with lease.held_lease(lock, f"{self.flag}={self.folder}", "command"):
        shutil.rmtree(self.local, ignore_errors=True)
        self.pull()
        self._check_names()
        yield
      return
    try:
      self.local.mkdir(parents=True, exist_ok=True)
      with (self.local / _LOCK).open("a+b") as file:
        self._lock(file.fileno(), part)
        self._check_names()
        yield
    except (FileExistsError, NotADirectoryError) as error:
      raise UserError(f"{self.flag}={self.folder} is not a folder; name another one") from error

  def _lock(self, descriptor: int, part: Part) -> None:
    """Locks one byte per file: parts of different counts overlap where their files do."""
    files = self.files(part)
    if not files:
      return
    try:
      fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, len(files), files.start)
    except (BlockingIOError, PermissionError) as error:
      raise UserError(
        f"{self.flag}={self.folder}: another process writes these files; wait until it ends, or pass another"
        f" {self.flag} or part"
      ) from error
    except OSError as error:
      log.warning("%s has no locks (%s); make sure that no second process writes to it", self.folder, error.strerror)

  def _check_names(self) -> None:
    """Refuses files of another number of files, which a reader of the folder would add to these."""
    own = re.compile(rf"{re.escape(self.stem)}-\d{{5,}}-of-(\d{{5,}})\.jsonl")
    for path in sorted(self.local.iterdir()):
      match = own.fullmatch(path.name)
      if match and int(match[1]) != self.num_files:
        raise UserError(
          f"{path} belongs to an output of {int(match[1])} files, this one has {self.num_files}: other items, or"
          f" another number of items per file; pass another {self.flag}, or delete that output"
        )

  def _check_header(self, header: Any, path: pathlib.Path) -> None:
    """Raises UserError if a file was written from other items or with other settings."""
    if header == self.header:
      return
    if not isinstance(header, dict):
      raise ValueError("no header")
    name = next(name for name in (*self.header, *header) if header.get(name) != self.header.get(name))
    values = [printable(json.dumps(value.get(name), ensure_ascii=False), _MAX_SHOWN) for value in (header, self.header)]
    raise UserError(
      f"{path} was written with {name}={values[0]}, not {values[1]}; pass another {self.flag}, or delete that output"
    )
