"""Annotation files of retrieval corpora, and the videos that belong to their clips."""

from __future__ import annotations

import dataclasses
import os
import posixpath
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from etils import epath

from clipvip_jax.data.engine import bad_lines
from clipvip_jax.data.engine.corpus_config import CorpusConfig
from clipvip_jax.data.engine.items import Item, check_id, clean_texts, safe_join
from clipvip_jax.data.engine.json_files import (
  ANNOTATION_KEYS,
  RowKeys,
  excerpt,
  id_and_text,
  read_json,
  read_json_lines,
)
from clipvip_jax.input_pipeline.read_media import VIDEO_SUFFIXES
from clipvip_jax.utils import storage
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.local_paths import find_path, normal_form

_FOLDERS = ("", "annotation", "annotations")  # of annotation files, below the raw files

# Unchecked (location, name of a clip, its text or list of texts).
AnnotationRow = tuple[str, Any, Any]


@dataclasses.dataclass(eq=False, kw_only=True)
class RetrievalConfig(CorpusConfig):
  """Configuration of a retrieval corpus.

  Attributes:
    videos: folder of videos below the raw files; "": the usual folders of the corpus.
  """

  videos: str = ""


@dataclasses.dataclass(frozen=True)
class Clip:
  """A clip with all texts of an annotation file.

  Attributes:
    name: name in the annotations.
    where: location of its first row.
    texts: its texts in order.
  """

  name: str
  where: str
  texts: list[str]

  @property
  def id(self) -> str:
    """The name without folders and video extensions, which is the same in all redistributions."""
    return posixpath.basename(stem(self.name))


def find_file(raw_dir: epath.Path, *names: str) -> epath.Path:
  """Returns the first existing file among `names`.

  Raises:
    UserError: None exists.
  """
  if (path := find_optional_file(raw_dir, *names)) is None:
    folders = " or ".join(folder for folder in _FOLDERS if folder)
    raise UserError(f"{raw_dir}: no annotations; put {' or '.join(names)} here, or in {folders}")
  return path


def find_optional_file(raw_dir: epath.Path, *names: str) -> epath.Path | None:
  """Returns the first existing file among `names`, or None."""
  paths = (raw_dir / folder / name for name in names for folder in _FOLDERS)
  return next((path for path in paths if path.exists()), None)


def read_json_clips(path: epath.Path, keys: RowKeys = ANNOTATION_KEYS) -> Iterator[AnnotationRow]:
  """Yields the rows of a JSON or JSON lines file.

  Args:
    path: lines {ID: NAME, TEXT: TEXT or [TEXT, ...]}, a list of these, {NAME: {TEXT: ...}} or {NAME: [TEXT, ...]}.
    keys: the accepted keys.

  Raises:
    UserError: the file is unreadable or invalid.
  """
  for where, row in _json_rows(path, keys):
    if (pair := bad_lines.attempt(id_and_text, row, keys, where)) is not None:
      yield where, *pair


def _json_rows(path: epath.Path, keys: RowKeys) -> Iterator[tuple[str, Any]]:
  if path.suffix == ".jsonl":
    yield from ((f"{path}, line {number}", row) for number, row in read_json_lines(os.fspath(path)))
    return
  rows = read_json(os.fspath(path))
  if isinstance(rows, dict):
    for name, row in rows.items():
      texts = {keys.texts[0]: row} if isinstance(row, list) else row
      yield f"{path}, {name!r}", {keys.ids[0]: name, **texts} if isinstance(texts, dict) else texts
  elif isinstance(rows, list):
    yield from ((f"{path}, entry {number}", row) for number, row in enumerate(rows, 1))
  else:
    raise UserError(f"{path}: expected a list of clips or {{NAME: CLIP}}, got {excerpt(rows)}")


def merge_clips(rows: Iterable[AnnotationRow]) -> dict[str, Clip]:
  """Merges rows of the same clip.

  Returns:
    {`clip_key` of the name: clip}, in order of their first rows.

  Raises:
    UserError: a name or text is invalid.
  """
  clips: dict[str, Clip] = {}
  for where, name, texts in rows:
    bad_lines.attempt(_add_row, clips, where, name, texts)
  return clips


def _add_row(clips: dict[str, Clip], where: str, name: Any, texts: Any) -> None:
  clip = Clip(check_name(name, where), where, [])
  clips.setdefault(clip_key(name), clip).texts.extend(clean_texts(texts, where))


def clip_key(name: str) -> str:
  """Returns the same key for all spellings of a clip's name: without video extensions, in Unicode's normal form."""
  return normal_form(stem(name))


def check_name(name: Any, where: str) -> str:
  """Returns the name of a clip unchanged.

  Raises:
    UserError: it is not a valid id, or escapes the folder of videos.
  """
  safe_join("the folder of videos", name, where)
  return str(name)


def stem(name: str) -> str:
  """Returns a name without video extensions: `x` for `x.mp4` and `x.mov.mp4`. Other dots are part of the name."""
  while (split := posixpath.splitext(name))[1].lower() in VIDEO_SUFFIXES:
    name = split[0]
  return name


class VideoFinder:
  """Finds videos by the names of clips, with any extension. Lists each folder once."""

  def __init__(self, raw_dir: epath.Path, folder: str, default_folders: Iterable[str], suffix: str = ".mp4"):
    """Selects the folders to search.

    Args:
      raw_dir: folder of the downloaded files.
      folder: folder of videos below `raw_dir`; "": the existing `default_folders`, then `raw_dir` itself.
      default_folders: usual names of the folder.
      suffix: extension in the paths of videos that do not exist.

    Raises:
      UserError: `folder` does not exist.
    """
    if folder and not (raw_dir / folder).is_dir():
      raise UserError(f"videos={folder!r}: no such folder in {raw_dir}; name the folder of videos")
    folders = [folder] if folder else [name for name in default_folders if (raw_dir / name).is_dir()] + [""]
    self._folders, self._suffix = [os.fspath(raw_dir / name) for name in folders], suffix
    self._listings: dict[str, dict[str, str]] = {}

  def path(self, names: Iterable[str]) -> str:
    """Returns the path of a clip's video.

    Args:
      names: names of the clip, the preferred one first.

    Returns:
      The video of the first name in the first folder that has one; else the path where the first name is expected.
    """
    names = list(names)
    for folder in self._folders:
      for name in names:
        parent, last = posixpath.split(posixpath.join(folder, clip_key(name)))
        parent = parent if storage.is_remote(parent) else find_path(parent)
        if last in (listing := self._list(parent)):
          return posixpath.join(parent, listing[last])
    suffix = "" if stem(names[0]) != names[0] else self._suffix
    return posixpath.join(self._folders[0], names[0] + suffix)

  def _list(self, folder: str) -> dict[str, str]:
    """Returns {clip_key: file name} of a folder; empty if it does not exist."""
    if folder not in self._listings:
      path = epath.Path(folder)
      names = sorted((entry.name for entry in path.iterdir()), key=_preference) if path.is_dir() else []
      self._listings[folder] = {clip_key(name): name for name in reversed(names)}
    return self._listings[folder]


def _preference(name: str) -> tuple[int, str]:
  """Sort key: of files with the same stem, the one whose suffix comes first in VIDEO_SUFFIXES is used."""
  suffix = posixpath.splitext(name)[1].lower()
  return (VIDEO_SUFFIXES.index(suffix) if suffix in VIDEO_SUFFIXES else len(VIDEO_SUFFIXES)), name


def video_names(clip: Clip) -> Iterable[str]:
  """Returns the names under which a clip's video is searched: as in the annotations, then without folders."""
  return dict.fromkeys((clip.name, posixpath.basename(clip.name)))


def make_items(
  split: str,
  clips: Iterable[Clip],
  videos: VideoFinder,
  names: Callable[[Clip], Iterable[str]] = video_names,
  *,
  join_texts: bool = False,
  end: float | None = None,
) -> Iterator[Item]:
  """Yields the items of a split.

  Args:
    split: name of the split.
    clips: its clips.
    videos: finds their videos.
    names: returns the names under which a clip's video is searched.
    join_texts: whether all texts of a clip form one paragraph.
    end: end of each clip in seconds; None: end of the video.

  Raises:
    UserError: a name is not a valid id.
  """
  for clip in clips:
    texts = (" ".join(clip.texts),) if join_texts and clip.texts else tuple(clip.texts)
    yield Item(
      id=check_id(clip.id, clip.where), split=split, video=videos.path(names(clip)), descriptions=texts, end=end
    )
