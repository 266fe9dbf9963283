"""Texts that are kept apart from the clips, found by a clip's id: an LMDB, or a JSON file."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from etils import epath

from clipvip_jax.utils.errors import UserError
from data.engine import storage
from data.engine.items import Item, clean_text, peek

_ID_KEYS = ("image_id", "clip_id", "video_id", "id")
_TEXT_KEYS = ("caption", "text", "subtitle")
_CHECKED = 1000  # clips by which a file of texts is judged


class Lookup(Protocol):
  """Texts by id; None where there is none. Iterating gives the ids."""

  def get(self, name: str, /) -> str | None: ...

  def __iter__(self) -> Iterator[str]: ...


class Lmdb:
  """An LMDB of UTF-8 texts, read where it lies: memory does not grow with it. Raises UserError for no whole LMDB."""

  def __init__(self, path: str):
    import lmdb

    try:
      self._environment = lmdb.open(
        path, readonly=True, create=False, lock=False, readahead=False, subdir=epath.Path(path).is_dir()
      )
      self._transaction = self._environment.begin(buffers=True)
    except lmdb.Error as error:
      raise UserError(f"{path}: no LMDB that can be read ({error})") from error
    self._path = path
    self._check_whole()

  def _check_whole(self) -> None:
    """Refuses a file that was cut: the system would end this process where it is read behind its end."""
    place = epath.Path(self._path)
    file = place / "data.mdb" if place.is_dir() else place
    promised = (self._environment.info()["last_pgno"] + 1) * self._environment.stat()["psize"]
    if (size := file.stat().length) < promised:
      self._environment.close()
      raise UserError(
        f"{file}: {size} bytes of an LMDB that has {promised}; copy it again (if this is all of it, `mdb_copy -c`"
        " writes it anew)"
      )

  def __iter__(self) -> Iterator[str]:
    return (str(key, "utf-8", "replace") for key in self._transaction.cursor().iternext(values=False))

  def get(self, name: str, /) -> str | None:
    """Raises UserError for bytes that are no text, and for a damaged file."""
    import lmdb

    key = name.encode()
    try:
      value = self._transaction.get(key) if len(key) <= self._environment.max_key_size() else None
    except lmdb.Error as error:
      raise UserError(f"{self._path}, key {name!r}: the LMDB is damaged ({error})") from error
    if value is None:
      return None
    try:
      return clean_text(str(value, "utf-8"), f"{self._path}, key {name!r}")
    except UnicodeDecodeError as error:
      raise UserError(f"{self._path}, key {name!r}: the text is not UTF-8 ({error})") from error


def is_lmdb(path: str) -> bool:
  """Whether `path` is an LMDB rather than a JSON file."""
  return epath.Path(path).is_dir() or epath.Path(path).suffix in (".mdb", ".lmdb")


def open_lookup(path: str) -> Lookup:
  """An LMDB, or a JSON file held in memory: {ID: TEXT}, [{"image_id": ID, "caption": TEXT}], or that as lines.

  Raises:
    UserError: it is not there, or none of these.
  """
  if not epath.Path(path).exists():
    raise UserError(f"{path}: no such file; name an LMDB, a .json or a .jsonl file")
  return Lmdb(path) if is_lmdb(path) else _read_json(path)


@functools.cache
def open_shared(path: str) -> Lookup:
  """`open_lookup`, once a process: LMDB does not allow twice."""
  return open_lookup(path)


def check_lookups(items: Iterator[Item], lookups: Mapping[str, str]) -> Iterator[Item]:
  """The items, unless a file of texts knows none of the first thousand.

  Args:
    items: of a corpus.
    lookups: {"subtitle" | "caption": file}.

  Raises:
    UserError: a file is for other clips: one id of each side is named.
  """
  open_shared.cache_clear()  # what an earlier build of this process has read may have been mended since
  first, items = peek(items, _CHECKED)
  for field, path in lookups.items():
    texts = open_shared(path)
    if first and not any(texts.get(item.id) for item in first):
      example = next(iter(texts), None)
      raise UserError(
        f"{path}: no {field} for any of the first {len(first)} clips. It is for other clips: theirs are named as"
        f" {example!r}, these as {first[0].id!r}"
      )
  yield from items


def _read_json(path: str) -> dict[str, str]:
  if epath.Path(path).suffix == ".jsonl":
    rows: Any = [row for _, row in json_lines(path)]
  else:
    rows = read_json(path)
  if isinstance(rows, dict):
    return {str(name): clean_text(text, f"{path}, {name!r}") for name, text in rows.items()}
  if not isinstance(rows, list):
    raise UserError(f'{path}: expected {{ID: TEXT}} or [{{"image_id": ID, "caption": TEXT}}]')
  return dict(_pair(row, f"{path}, entry {number}") for number, row in enumerate(rows, 1))


def _pair(row: Any, where: str) -> tuple[str, str]:
  if isinstance(row, dict):
    names = [row[key] for key in _ID_KEYS if key in row]
    texts = [row[key] for key in _TEXT_KEYS if key in row]
    if names and texts:
      return str(names[0]), clean_text(texts[0], where)
  raise UserError(f"{where}: expected one of {_ID_KEYS} and one of {_TEXT_KEYS}, got {str(row)[:80]}")


def lookup_state(path: str) -> list[int]:
  """`places.state` of a file of texts. An LMDB's folder does not show that it has changed, its data file does."""
  file = epath.Path(path)
  return storage.file_state(file / "data.mdb" if file.is_dir() else file)


def lookup_identity(path: str) -> str:
  """What shows that a file of texts has other content: a digest of it; of an LMDB, its `lookup_state`."""
  file = epath.Path(path)
  return json.dumps(lookup_state(path)) if file.is_dir() else hashlib.sha256(file.read_bytes()).hexdigest()


def read_json(path: str) -> Any:
  """A JSON file. Raises UserError for one that is absent or broken, with the place."""
  try:
    return json.loads(epath.Path(path).read_text(encoding="utf-8-sig"))
  except (OSError, ValueError, RecursionError) as error:
    raise UserError(f"{path}: cannot be read as JSON ({getattr(error, 'strerror', None) or error})") from error


def json_lines(path: str) -> Iterator[tuple[int, dict[str, Any]]]:
  """(number of the line, object) of a JSON lines file; empty lines are passed over.

  Raises:
    UserError: no such file, or a line that is no JSON object; it is named.
  """
  try:
    with epath.Path(path).open("rb") as file:
      for number, line in enumerate(file, 1):
        if not (stripped := line.removeprefix(b"\xef\xbb\xbf").strip()):
          continue
        try:
          row = json.loads(stripped)
        except (ValueError, RecursionError) as error:
          raise UserError(f"{path}, line {number}: no JSON ({error}): {stripped[:60]!r}") from error
        if not isinstance(row, dict):
          raise UserError(f"{path}, line {number}: expected an object {{...}}, got {stripped[:60]!r}")
        yield number, row
  except OSError as error:
    raise UserError(f"{path}: cannot be read ({error.strerror})") from error
