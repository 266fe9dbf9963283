"""Subtitles and captions stored apart from the clips, in an LMDB or a JSON file, and looked up by clip id."""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import pathlib
import tempfile
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from etils import epath

from clipvip_jax.data.engine import bad_lines, build_files, caption_files
from clipvip_jax.data.engine.items import Item, clean_text, peek
from clipvip_jax.data.engine.json_files import LOOKUP_KEYS, excerpt, id_and_text, read_json, read_json_lines
from clipvip_jax.input_pipeline import remote_video
from clipvip_jax.utils import storage, transfers
from clipvip_jax.utils.bucket_copies import fetch_file
from clipvip_jax.utils.errors import UserError

_CHECKED_CLIPS = 1000  # clips that `check_lookups` looks up


class Lookup(Protocol):
  """Texts by clip id. `get` returns None for an unknown id; iteration yields the ids."""

  def get(self, name: str, /) -> str | None: ...

  def __iter__(self) -> Iterator[str]: ...


class LmdbLookup:
  """An LMDB of UTF-8 texts, memory-mapped."""

  def __init__(self, path: str, name: str = ""):
    """Opens the LMDB.

    Args:
      path: local path.
      name: path for messages; "": `path`.

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
      raise UserError(f"{name or path}: cannot be opened as an LMDB ({error}); copy it again") from error
    self._path = name or path
    self._check_size(epath.Path(path))

  def _check_size(self, path: epath.Path) -> None:
    """Refuses a truncated file: access beyond its end would kill the process with SIGBUS."""
    file = path / "data.mdb" if path.is_dir() else path
    expected = (self._environment.info()["last_pgno"] + 1) * self._environment.stat()["psize"]
    if (size := file.stat().length) < expected:
      self._environment.close()
      name = file if self._path == str(path) else self._path
      raise UserError(
        f"{name}: the LMDB is truncated ({size} of {expected} bytes); copy it again, or rewrite it with `mdb_copy -c`"
        " if the original has this size"
      )

  def __iter__(self) -> Iterator[str]:
    return (str(key, "utf-8", "replace") for key in self._transaction.cursor().iternext(values=False))

  def get(self, name: str, /) -> str | None:
    """Returns the text of a clip, or None.

    Raises:
      UserError: the value is not UTF-8, or the LMDB is corrupt.
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


def find_text(lookup: Lookup, name: str, split: str = "") -> str | None:
  """Returns the text of a clip under any Unicode form of its id (see `local_paths.normal_form`), or None.

  Args:
    lookup: the texts.
    name: id of the clip.
    split: its split, for texts that name it.
  """
  names = [name] if name.isascii() else [name, *(unicodedata.normalize(form, name) for form in ("NFC", "NFD"))]
  keys = [caption_files.clip_key(split, name) for name in names] if split else []
  return next((text for text in map(lookup.get, [*keys, *names]) if text is not None), None)


def is_lmdb(path: str) -> bool:
  """Returns whether `path` names an LMDB rather than JSON: a file of one, or a folder without JSON lines."""
  folder = epath.Path(path)
  return folder.suffix in (".mdb", ".lmdb") or (folder.is_dir() and not build_files.glob(folder, "*.jsonl"))


def open_lookup(*paths: str) -> Lookup:
  """Opens files of texts.

  Args:
    *paths: one LMDB; or what `caption_files.list_files` allows: .json or .jsonl files, {ID: TEXT} or a list or lines of
      {"image_id": ID, "caption": TEXT}, with or without a header, which are held in memory.

  Raises:
    UserError: the file does not exist, or has another format.
  """
  if any(map(is_lmdb, paths)):
    if len(paths) > 1:
      raise UserError(f"{', '.join(paths)}: an LMDB is read alone; name it only, or files of JSON lines only")
    return _open_lmdb(_existing(paths[0]))
  texts: dict[str, str] = {}
  for file in itertools.chain.from_iterable(map(caption_files.list_files, paths)):
    _read_texts(_existing(file), texts)
  return texts


def _existing(path: str) -> str:
  if not transfers.exists(path):
    raise UserError(f"{path}: no such file; name an LMDB, a .json or a .jsonl file")
  return path


def _open_lmdb(path: str) -> LmdbLookup:
  if not storage.is_remote(path):
    return LmdbLookup(path)
  with tempfile.TemporaryDirectory() as folder:  # deleted when the LMDB is mapped: the system keeps its content
    copy = pathlib.Path(folder, "lookup.mdb")
    remote_video.fetch(path, copy)
    return LmdbLookup(str(copy), path)


@functools.cache
def open_shared(path: str) -> Lookup:
  """Calls `open_lookup` once per process, since LMDB does not allow opening a file twice."""
  return open_lookup(path)


def check_lookups(items: Iterator[Item], lookups: Mapping[str, str]) -> Iterator[Item]:
  """Yields the items after checking that each lookup has a text for at least one of the first thousand.

  Args:
    items: items of a corpus.
    lookups: {"subtitle" or "caption": path}.

  Raises:
    UserError: a lookup belongs to other clips; the message has an id of each.
  """
  open_shared.cache_clear()  # files may have changed since an earlier build in this process
  first, items = peek(items, _CHECKED_CLIPS)
  for field, path in lookups.items():
    texts = open_shared(path)
    if first and not any(find_text(texts, item.id, item.split) for item in first):
      example = next(map(caption_files.clip_name, texts), None)
      raise UserError(
        f"{path}: no {field} for any of the first {len(first)} clips; its ids are like {example!r}, those of the clips"
        f" like {first[0].id!r}. Use the {field}s of these clips"
      )
  yield from items


def _read_texts(path: str, texts: dict[str, str]) -> None:
  """Adds the texts of a file to `texts`."""
  is_lines = epath.Path(path).suffix == ".jsonl"
  rows: Any = [row for _, row in read_json_lines(path)] if is_lines else read_json(path)
  if isinstance(rows, dict):
    rows = [{"id": str(name), "text": text} for name, text in rows.items()]
  if not isinstance(rows, list):
    raise UserError(f'{path}: expected {{ID: TEXT}} or [{{"image_id": ID, "caption": TEXT}}], got {excerpt(rows)}')
  generated = bool(rows) and caption_files.header(rows[0]) is not None
  for number, row in enumerate(rows, 1):
    if caption_files.header(row) is None:
      bad_lines.attempt(_add_text, texts, row, generated, f"{path}, entry {number}")


def _add_text(texts: dict[str, str], row: Any, generated: bool, where: str) -> None:
  """Adds the text of a row; one that is empty in a generated file was left out."""
  name, text = id_and_text(row, LOOKUP_KEYS, where)
  text = clean_text(text, where)
  if generated and not text:
    return
  key = caption_files.clip_key(str(row.get("split") or ""), str(name)) if generated else str(name)
  if texts.setdefault(key, text) != text:
    raise UserError(
      f"{where}: the clip {str(name)!r} has another text in an earlier entry; keep one of them, since each clip has one"
      " such text"
    )


def headers(path: str) -> list[dict[str, Any]]:
  """Returns `caption_files.read_headers` of a lookup; none for "" and an LMDB."""
  return caption_files.read_headers(path) if path and not is_lmdb(path) else []


def lookup_state(path: str) -> list[int]:
  """Returns `build_files.file_state` of a lookup's files. For an LMDB's folder, that of its data file."""
  if is_lmdb(path):
    file = epath.Path(path)
    return build_files.file_state(file / "data.mdb" if file.is_dir() else file)
  return [number for file in caption_files.list_files(path) for number in build_files.file_state(file)]


def lookup_fingerprint(path: str) -> str:
  """Returns a string that changes with the content: a SHA-256 digest; `lookup_state` for an LMDB's folder."""
  if epath.Path(path).is_dir() and is_lmdb(path):
    return json.dumps(lookup_state(path))
  digest = hashlib.sha256()
  for file in caption_files.list_files(path):
    digest.update(fetch_file(file).read_bytes())
  return digest.hexdigest()
