"""Finds the files of HD-VILA-100M in the folder of the downloaded files."""

from __future__ import annotations

import dataclasses
import os
import pathlib

from etils import epath

from clipvip_jax.data.engine import build_files
from clipvip_jax.data.engine.corpus_config import CorpusConfig
from clipvip_jax.data.engine.text_lookup import is_lmdb
from clipvip_jax.utils.errors import UserError

_CLIP_FOLDERS = ("video_clips", "video_clips_3fps", "clips")
_VIDEO_FOLDERS = ("videos", "download_videos")
_RECORDS = ("metafiles/*.jsonl", "*.jsonl")


@dataclasses.dataclass(eq=False, kw_only=True)
class HdvilaConfig(CorpusConfig):
  """Configuration of HD-VILA. Names are relative to the raw files; "": `Layout.find` selects the file.

  Attributes:
    clips: folder of clips cut to VIDEO_ID/CLIP_ID.
    videos: folder of uncut videos VIDEO_ID.mp4; if set, clips are taken from these.
    records: file of JSON lines, or a pattern of several.
    subtitles, captions: LMDB or JSON file.
  """

  clips: str = ""
  videos: str = ""
  records: str = ""
  subtitles: str = ""
  captions: str = ""


@dataclasses.dataclass(frozen=True)
class Layout:
  """Files of a corpus.

  Attributes:
    folder: folder of clips or videos.
    cut: whether these are cut clips.
    records: files of records.
    lookups: {"subtitle" or "caption": path}.
  """

  folder: epath.Path
  cut: bool
  records: list[epath.Path]
  lookups: dict[str, str]

  def __str__(self) -> str:
    videos = f"{'cut clips' if self.cut else 'spans of videos'} in {self.folder.name}"
    texts = "; ".join(f"{field}s in {pathlib.PurePosixPath(path).name}" for field, path in self.lookups.items())
    return f"{videos}, records in {', '.join(path.name for path in self.records)}; {texts or 'subtitles in records'}"

  @classmethod
  def find(cls, raw_dir: epath.Path, config: HdvilaConfig) -> Layout:
    """Returns the files that the configuration names, or else those that exist.

    Cut clips are preferred to uncut videos. Subtitles and captions: a file with this word in its name, an LMDB or
    .json, for captions also .jsonl. Records: if X is the LMDB of subtitles and clips are cut, X.jsonl; otherwise
    *.jsonl in the raw folder or its folder metafiles.

    Raises:
      UserError: a file does not exist, or several files qualify.
    """
    folder, cut = _find_folder(raw_dir, config)
    files = {
      "subtitle": _find_texts(raw_dir, config.subtitles, "subtitle", (".json",)),
      "caption": _find_texts(raw_dir, config.captions, "caption", (".json", ".jsonl")),
    }
    lookups = {field: os.fspath(path) for field, path in files.items() if path is not None}
    return cls(folder, cut, _find_records(raw_dir, config.records, cut, lookups), lookups)


def _find_folder(raw_dir: epath.Path, config: HdvilaConfig) -> tuple[epath.Path, bool]:
  """Returns (folder of clips or videos, whether these are cut clips)."""
  if config.videos:
    candidates = [(config.videos, False)]
  elif config.clips:
    candidates = [(config.clips, True)]
  else:
    candidates = [*((name, True) for name in _CLIP_FOLDERS), *((name, False) for name in _VIDEO_FOLDERS)]
  for name, cut in candidates:
    if (raw_dir / name).exists():
      return raw_dir / name, cut
  names = ", ".join(name for name, _ in candidates)
  raise UserError(f"{raw_dir}: no folder of clips or videos ({names}); set `clips` or `videos` to its name")


def _find_texts(raw_dir: epath.Path, name: str, word: str, suffixes: tuple[str, ...]) -> epath.Path | None:
  if name:
    if not (raw_dir / name).exists():
      raise UserError(f"{word}s={name!r}: no such file in {raw_dir}; name the file of {word}s")
    return raw_dir / name
  candidates = [path for path in sorted(raw_dir.iterdir()) if word in path.name.lower() and not _is_clip_list(path)]
  paths = [path for path in candidates if is_lmdb(os.fspath(path)) or path.suffix in suffixes]
  if len(paths) > 1:
    names = ", ".join(path.name for path in paths)
    raise UserError(f"{raw_dir}: several files may hold the {word}s ({names}); set `{word}s` to one of them")
  return paths[0] if paths else None


def _is_clip_list(path: epath.Path) -> bool:
  """Returns whether this is X.jsonl beside an LMDB X."""
  return path.suffix == ".jsonl" and path.parent.joinpath(path.name.removesuffix(".jsonl")).exists()


def _find_records(raw_dir: epath.Path, name: str, cut: bool, lookups: dict[str, str]) -> list[epath.Path]:
  if not name and cut and "subtitle" in lookups and epath.Path(lookups["subtitle"] + ".jsonl").exists():
    return [epath.Path(lookups["subtitle"] + ".jsonl")]
  patterns = (name,) if name else _RECORDS
  for pattern in patterns:
    paths = [path for path in build_files.glob(raw_dir, pattern) if os.fspath(path) not in lookups.values()]
    if paths := [path for path in paths if name or not _is_clip_list(path)]:
      return paths
  raise UserError(f"{raw_dir}: no records of clips ({', '.join(patterns)}); set `records` to their name")
