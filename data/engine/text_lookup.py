"""Subtitles and captions stored apart from the clips, in an LMDB or a JSON file, and looked up by clip id."""

from __future__ import annotations

import functools
import hashlib
import json
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from etils import epath

from clipvip_jax.data.engine import bad_lines, storage
from clipvip_jax.data.engine.items import Item, clean_text, peek
from clipvip_jax.data.engine.json_files import LOOKUP_KEYS, excerpt, id_and_text, read_json, read_json_lines
from clipvip_jax.utils.errors import UserError

_CHECKED_CLIPS = 1000  # clips that `check_lookups` looks up


class Lookup(Protocol):
  """Texts by clip id. `get` returns None for an unknown id; iteration yields the ids."""

  def get(self, name: str, /) -> str | None: ...

  def __iter__(self) -> Iterator[str]: ...


class LmdbLookup:
  """An LMDB of UTF-8 texts, memory-mapped."""

  def __init__(self, path: str):
    """Opens the LMDB.

    Raises:
      UserError: `path` is not an LMDB, or is truncated.
    """
    import lmdb

    try:
      self._environment = lmdb.open(
        path, readonly=True, create=False, lock=False, readahead=False, subdir=epath.Path(path).is_dir()
      )
      self._transaction = self._environment.begin(buffers=True)
    except lmdb.Error as error:
      raise UserError(f"{path}: cannot be opened as an LMDB ({error}); copy it again") from error
    self._path = path
    self._check_size()

  def _check_size(self) -> None:
    """Refuses a truncated file: access beyond its end would kill the process with SIGBUS."""
    path = epath.Path(self._path)
    file = path / "data.mdb" if path.is_dir() else path
    expected = (self._environment.info()["last_pgno"] + 1) * self._environment.stat()["psize"]
    if (size := file.stat().length) < expected:
      self._environment.close()
      raise UserError(
        f"{file}: the LMDB is truncated ({size} of {expected} bytes); copy it again, or rewrite it with `mdb_copy -c`"
        " if the original has this size"
      )

  def __iter__(self) -> Iterator[str]:
    return (str(key, "utf-8", "replace") for key in self._transaction.cursor().iternext(values=False))

  def get(self, name: str, /) -> str | None:
    """Returns the text of a clip, or None.

    Raises:
      UserError: The value is not UTF-8, or the LMDB is corrupt.
    """
    import lmdb

    key = name.encode()
    try:
      value = self._transaction.get(key) if len(key) <= self._environment.max_key_size() else None
    except lmdb.Error as error:
      raise UserError(f"{self._path}, key {name!r}: the LMDB is corrupt ({error}); copy it again") from error
    if value is None:
      return None
    try:
      return clean_text(str(value, "utf-8"), f"{self._path}, key {name!r}")
    except UnicodeDecodeError as error:
      raise UserError(f"{self._path}, key {name!r}: the text is not UTF-8 ({error}); re-encode it") from error


def find_text(lookup: Lookup, name: str) -> str | None:
  """Returns the text of a clip under any Unicode form of its id (see `local_paths.normal_form`), or None."""
  if (text := lookup.get(name)) is not None or name.isascii():
    return text
  forms = (unicodedata.normalize(form, name) for form in ("NFC", "NFD"))
  return next((text for text in map(lookup.get, forms) if text is not None), None)


def is_lmdb(path: str) -> bool:
  """Returns whether `path` names an LMDB rather than a JSON file."""
  return epath.Path(path).is_dir() or epath.Path(path).suffix in (".mdb", ".lmdb")


def open_lookup(path: str) -> Lookup:
  """Opens a file of texts.

  Args:
    path: An LMDB; or a .json or .jsonl file, {ID: TEXT} or a list or lines of {"image_id": ID, "caption": TEXT}, which
      is held in memory.

  Raises:
    UserError: The file does not exist, or has another format.
  """
  if not epath.Path(path).exists():
    raise UserError(f"{path}: no such file; name an LMDB, a .json or a .jsonl file")
  return LmdbLookup(path) if is_lmdb(path) else _read_texts(path)


@functools.cache
def open_shared(path: str) -> Lookup:
  """Calls `open_lookup` once per process, since LMDB does not allow opening a file twice."""
  return open_lookup(path)


def check_lookups(items: Iterator[Item], lookups: Mapping[str, str]) -> Iterator[Item]:
  """Yields the items after checking that each lookup has a text for at least one of the first thousand.

  Args:
    items: Items of a corpus.
    lookups: {"subtitle" or "caption": path}.

  Raises:
    UserError: A lookup belongs to other clips; the message has an id of each.
  """
  open_shared.cache_clear()  # files may have changed since an earlier build in this process
  first, items = peek(items, _CHECKED_CLIPS)
  for field, path in lookups.items():
    texts = open_shared(path)
    if first and not any(find_text(texts, item.id) for item in first):
      example = next(iter(texts), None)
      raise UserError(
        f"{path}: no {field} for any of the first {len(first)} clips; its ids are like {example!r}, those of the clips"
        f" like {first[0].id!r}. Use the {field}s of these clips"
      )
  yield from items


def _read_texts(path: str) -> dict[str, str]:
  is_lines = epath.Path(path).suffix == ".jsonl"
  rows: Any = [row for _, row in read_json_lines(path)] if is_lines else read_json(path)
  if isinstance(rows, dict):
    return {str(name): clean_text(text, f"{path}, {name!r}") for name, text in rows.items()}
  if not isinstance(rows, list):
    raise UserError(f'{path}: expected {{ID: TEXT}} or [{{"image_id": ID, "caption": TEXT}}], got {excerpt(rows)}')
  texts: dict[str, str] = {}
  for number, row in enumerate(rows, 1):
    bad_lines.attempt(_add_text, texts, row, f"{path}, entry {number}")
  return texts


def _add_text(texts: dict[str, str], row: Any, where: str) -> None:
  name, text = id_and_text(row, LOOKUP_KEYS, where)
  text = clean_text(text, where)
  if texts.setdefault(str(name), text) != text:
    raise UserError(
      f"{where}: the clip {str(name)!r} has another text in an earlier entry; keep one of them, since each clip has one"
      " such text"
    )


def lookup_state(path: str) -> list[int]:
  """Returns `storage.file_state` of a lookup. For an LMDB's folder, that of its data file."""
  file = epath.Path(path)
  return storage.file_state(file / "data.mdb" if file.is_dir() else file)


def lookup_fingerprint(path: str) -> str:
  """Returns a string that changes with the content: a SHA-256 digest; `lookup_state` for an LMDB's folder."""
  file = epath.Path(path)
  return json.dumps(lookup_state(path)) if file.is_dir() else hashlib.sha256(file.read_bytes()).hexdigest()
