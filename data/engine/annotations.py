"""What retrieval corpora have in common: files of clips and their texts, and videos that are found by a clip's name."""

from __future__ import annotations

import csv
import dataclasses
import io
import os
import posixpath
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from etils import epath

from clipvip_jax.utils.errors import UserError
from data.engine.builder import CorpusConfig
from data.engine.items import Item, check_id, clean_texts, safe_join
from data.engine.text_lookup import json_lines, read_json

_FOLDERS = ("", "annotation", "annotations")  # below the source, of the owner's files
_ID_KEYS = ("clip_id", "video", "video_id")
_TEXT_KEYS = ("text", "caption", "description", "sentences")
# Of videos; where several files have one name, the first of these is taken.
_SUFFIXES = (".mp4", ".avi", ".mkv", ".webm", ".mov", ".3gp", ".mpg", ".mpeg", ".m4v", ".wmv", ".flv")

Pair = tuple[str, Any, Any]  # (place in a file, name of a clip, its text or texts), not checked yet


@dataclasses.dataclass(eq=False, kw_only=True)
class RetrievalConfig(CorpusConfig):
  """videos: the folder of videos below the source; "": the corpus' usual names are tried."""

  videos: str = ""


@dataclasses.dataclass(frozen=True)
class Clip:
  """A clip and all that a file says of it. name: as the file has it. where: its first place."""

  name: str
  where: str
  texts: list[str]

  @property
  def id(self) -> str:
    """Its name without folders and without the extension of a video, so that it is the same in every edition."""
    return posixpath.basename(stem(self.name))


def find_file(source: epath.Path, *names: str) -> epath.Path:
  """The first of `names` that is there. Raises UserError where none is."""
  if (path := find_optional_file(source, *names)) is None:
    folders = " or ".join(folder for folder in _FOLDERS if folder)
    raise UserError(f"{source}: no annotations; looked for {', '.join(names)} here and in {folders}")
  return path


def find_optional_file(source: epath.Path, *names: str) -> epath.Path | None:
  """`find_file`, None where none is there."""
  paths = (source / folder / name for name in names for folder in _FOLDERS)
  return next((path for path in paths if path.exists()), None)


def lines_of(path: epath.Path) -> Iterator[str]:
  """Raises UserError for a file that cannot be read, or is not in UTF-8; the line is named."""
  number = 0
  try:
    with path.open("rb") as file, io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as lines:
      for number, line in enumerate(lines, 1):  # noqa: B007  # the last number is used
        yield line
  except UnicodeDecodeError as error:
    raise UserError(f"{path}, after line {number}: not in UTF-8 ({error})") from error
  except OSError as error:
    raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def csv_rows(path: epath.Path, *columns: str) -> Iterator[tuple[str, dict[str, str]]]:
  """(place, row) of a CSV file that begins with the names of its columns. Raises UserError for one without these."""
  reader = csv.DictReader(lines_of(path), strict=True)
  try:
    if missing := [name for name in columns if name not in (reader.fieldnames or ())]:
      raise UserError(f"{path}, line 1: no column {', '.join(missing)}; it has {', '.join(reader.fieldnames or ())}")
    for row in reader:
      if None in row or None in row.values():
        raise UserError(f"{path}, line {reader.line_num}: {len(reader.fieldnames or ())} columns are expected")
      yield f"{path}, line {reader.line_num}", row
  except csv.Error as error:
    raise UserError(f"{path}, after line {reader.line_num}: no CSV ({error})") from error


def json_pairs(path: epath.Path) -> Iterator[Pair]:
  """Pairs of JSON lines {ID: NAME, TEXT: TEXT or [TEXT, ...]}, of a JSON list of these, or of {NAME: {TEXT: ...}}.

  ID is one of "clip_id", "video", "video_id"; TEXT one of "text", "caption", "description", "sentences".

  Raises:
    UserError: a line or an entry is none of that; it is named.
  """
  for where, row in _json_rows(path):
    names = [row[key] for key in _ID_KEYS if key in row] if isinstance(row, dict) else []
    texts = [row[key] for key in _TEXT_KEYS if key in row] if isinstance(row, dict) else []
    if not (names and texts):
      raise UserError(f"{where}: expected one of {_ID_KEYS} and one of {_TEXT_KEYS}, got {str(row)[:80]!r}")
    yield where, names[0], texts[0]


def _json_rows(path: epath.Path) -> Iterator[tuple[str, Any]]:
  if path.suffix == ".jsonl":
    yield from ((f"{path}, line {number}", row) for number, row in json_lines(os.fspath(path)))
    return
  rows = read_json(os.fspath(path))
  if isinstance(rows, dict):
    named = rows.items()
    yield from (
      (f"{path}, {name!r}", {"clip_id": name, **row} if isinstance(row, dict) else row) for name, row in named
    )
    return
  if not isinstance(rows, list):
    raise UserError(f"{path}: expected a list of clips, or {{NAME: CLIP}}, got {str(rows)[:40]!r}")
  yield from ((f"{path}, entry {number}", row) for number, row in enumerate(rows, 1))


def merge_pairs(pairs: Iterable[Pair]) -> dict[str, Clip]:
  """Clips by `stem` of their names, each once with its texts in order. Raises UserError for bad names and texts."""
  clips: dict[str, Clip] = {}
  for where, name, texts in pairs:
    clip = Clip(check_name(name, where), where, [])
    clips.setdefault(stem(name), clip).texts.extend(clean_texts(texts, where))
  return clips


def check_name(name: Any, where: str) -> str:
  """A clip's name as it is. Raises UserError for one that is none, or leads out of the folder of videos."""
  safe_join("the folder of videos", name, where)
  return str(name)


def stem(name: str) -> str:
  """A name without extensions of videos: `x` of `x.mp4`, and of `x.mov.mp4`; other dots belong to the name."""
  while (split := posixpath.splitext(name))[1].lower() in _SUFFIXES:
    name = split[0]
  return name


class Videos:
  """Videos by a clip's name, whatever their extension; each folder is listed once."""

  def __init__(self, source: epath.Path, named: str, usual: Iterable[str], suffix: str = ".mp4"):
    """Looks in `source`/`named`, or in each of the `usual` folders that is there, and last in the source itself.

    suffix: of videos that are not there.

    Raises:
      UserError: `named` is not there.
    """
    if named and not (source / named).is_dir():
      raise UserError(f"{source / named}: no such folder, although `videos` names it")
    usual = [named] if named else [name for name in usual if (source / name).is_dir()] + [""]
    self._folders, self._suffix = [os.fspath(source / name) for name in usual], suffix
    self._listed: dict[str, dict[str, str]] = {}

  def path(self, names: Iterable[str]) -> str:
    """The first of `names` in the first folder that has one; where none has, where the first is expected."""
    names = list(names)
    for folder in self._folders:
      for name in names:
        below, last = posixpath.split(posixpath.join(folder, stem(name)))
        if last in (listed := self._listing(below)):
          return posixpath.join(below, listed[last])
    ending = "" if stem(names[0]) != names[0] else self._suffix
    return posixpath.join(self._folders[0], names[0] + ending)

  def _listing(self, folder: str) -> dict[str, str]:
    """{stem: name} of what is in a folder; empty where there is none."""
    if folder not in self._listed:
      path = epath.Path(folder)
      names = sorted((entry.name for entry in path.iterdir()), key=_rank) if path.is_dir() else []
      self._listed[folder] = {stem(name): name for name in reversed(names)}
    return self._listed[folder]


def _rank(name: str) -> tuple[int, str]:
  suffix = posixpath.splitext(name)[1].lower()
  return (_SUFFIXES.index(suffix) if suffix in _SUFFIXES else len(_SUFFIXES)), name


def same_place(clip: Clip) -> Iterable[str]:
  """Names under which a clip's video is looked for: as the file has it, then without its folders."""
  return dict.fromkeys((clip.name, posixpath.basename(clip.name)))


def make_items(
  split: str,
  clips: Iterable[Clip],
  videos: Videos,
  names: Callable[[Clip], Iterable[str]] = same_place,
  *,
  joined: bool = False,
  end: float | None = None,
) -> Iterator[Item]:
  """Items of a split.

  names: under which a clip's video is looked for. joined: all of its texts make one paragraph. end: see Item.

  Raises:
    UserError: a name is no id.
  """
  for clip in clips:
    texts = (" ".join(clip.texts),) if joined and clip.texts else tuple(clip.texts)
    yield Item(
      id=check_id(clip.id, clip.where), split=split, video=videos.path(names(clip)), descriptions=texts, end=end
    )
