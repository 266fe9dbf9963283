"""hdvila: HD-VILA-100M, clips with what is said in them, and captions of their middle frames where there are some."""

from __future__ import annotations

import dataclasses
import itertools
import os
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import tensorflow_datasets as tfds
from etils import epath

from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import log
from data.engine import storage
from data.engine.builder import CorpusBuilder, CorpusConfig
from data.engine.items import Item, check_id, clean_text, peek, safe_join
from data.engine.text_lookup import check_lookups, is_lmdb, json_lines

# Where one is looked for, unless the configuration names it.
_CLIPS = ("video_clips", "video_clips_3fps", "clips")
_VIDEOS = ("videos", "download_videos")
_RECORDS = ("metafiles/*.jsonl", "*.jsonl")
_TIME = re.compile(r"(\d+):([0-5]?\d):([0-5]?\d(?:\.\d*)?)", re.ASCII)


@dataclasses.dataclass(eq=False, kw_only=True)
class HdvilaConfig(CorpusConfig):
  """Names below the source; "" for those that are found by themselves, as `Layout.find` says.

  clips: folder of clips, cut to VIDEO_ID/CLIP_ID. videos: folder of uncut VIDEO_ID.mp4; where it is named, clips are
  taken out of these. records: file of JSON lines, or a pattern of several. subtitles, captions: LMDB or JSON.
  """

  clips: str = ""
  videos: str = ""
  records: str = ""
  subtitles: str = ""
  captions: str = ""


class Builder(CorpusBuilder):
  """Clips named by the owner's records, or by the list beside the subtitles; training split only.

  Records are JSON lines {"video_id": ID, "clip": [{"clip_id": "ID.7.mp4", "span": ["00:00:17.759", "00:00:23.279"],
  "text"?: SUBTITLE}]}; a list has lines {"clip_id": "ID.7.mp4", "text"?: SUBTITLE}, with a "span" where videos are
  uncut. Both are read line by line. Other subtitles, and captions, lie in an LMDB, UTF-8 by clip_id, or in JSON,
  {CLIP_ID: TEXT} or [{"image_id": CLIP_ID, "caption": TEXT}], which each worker holds in memory.
  """

  code_path = pathlib.Path(__file__)
  VERSION = tfds.core.Version("1.0.0")
  BUILDER_CONFIGS = [  # noqa: RUF012 - TFDS' own way
    HdvilaConfig(name="default", description="Three frames a second.", fps=3)
  ]

  def items(self, source: epath.Path) -> Iterator[Item]:
    """Raises UserError for a broken line, by its number, and for texts of other clips."""
    layout = self._layout(source)
    log.info("%s: %s", source, layout)
    return check_lookups(_items(layout), layout.lookups)

  def lookups(self, source: epath.Path) -> dict[str, str]:
    """Raises UserError where files cannot be told apart."""
    return self._layout(source).lookups

  def _layout(self, source: epath.Path) -> Layout:
    assert isinstance(self.builder_config, HdvilaConfig)
    return Layout.find(source, self.builder_config)


@dataclasses.dataclass(frozen=True)
class Layout:
  """Which of the owner's files are read. folder: of clips (cut) or videos. lookups: {"subtitle" | "caption": file}."""

  folder: epath.Path
  cut: bool
  records: list[epath.Path]
  lookups: dict[str, str]

  def __str__(self) -> str:
    videos = f"{'cut clips' if self.cut else 'spans of videos'} in {self.folder.name}"
    texts = "; ".join(f"{field}s from {os.path.basename(path)}" for field, path in self.lookups.items())  # noqa: PTH119
    return f"{videos}, named by {', '.join(path.name for path in self.records)}; {texts or 'subtitles from there'}"

  @classmethod
  def find(cls, source: epath.Path, config: HdvilaConfig) -> Layout:
    """What the configuration names, else what there is.

    Cut clips go before uncut videos. Subtitles and captions are what has that word in its name: an LMDB or .json, for
    captions .jsonl too. Where X is the subtitles' LMDB and clips are cut, X.jsonl is the list of clips; otherwise
    records are *.jsonl in the source or its folder metafiles.

    Raises:
      UserError: something is not there, or there are several of it.
    """
    cut = not config.videos
    folder = _one(source, (config.clips,) if config.clips else _CLIPS) if cut else _one(source, (config.videos,))
    if folder is None and not (config.clips or config.videos):
      cut, folder = False, _one(source, _VIDEOS)
    if folder is None:
      named = config.clips or config.videos or ", ".join(_CLIPS + _VIDEOS)
      raise UserError(f"{source}: no folder of clips or videos ({named}); name it as `clips` or `videos`")
    lookups = {
      "subtitle": _texts(source, config.subtitles, "subtitle", (".json",)),
      "caption": _texts(source, config.captions, "caption", (".json", ".jsonl")),
    }
    found = {field: os.fspath(path) for field, path in lookups.items() if path is not None}
    return cls(folder, cut, _records(source, config.records, cut, found), found)


def _one(source: epath.Path, names: tuple[str, ...]) -> epath.Path | None:
  """The first of `names` that is there."""
  return next((source / name for name in names if (source / name).exists()), None)


def _texts(source: epath.Path, named: str, word: str, suffixes: tuple[str, ...]) -> epath.Path | None:
  if named:
    if not (source / named).exists():
      raise UserError(f"{source / named}: no such file, although `{word}s` names it")
    return source / named
  there = [path for path in sorted(source.iterdir()) if word in path.name.lower() and not _is_list(path)]
  found = [path for path in there if is_lmdb(os.fspath(path)) or path.suffix in suffixes]
  if len(found) > 1:
    names = ", ".join(path.name for path in found)
    raise UserError(f"{source}: several files may be the {word}s ({names}); name one as `{word}s`")
  return found[0] if found else None


def _is_list(path: epath.Path) -> bool:
  """Whether this is X.jsonl beside an LMDB X."""
  return path.suffix == ".jsonl" and path.parent.joinpath(path.name.removesuffix(".jsonl")).exists()


def _records(source: epath.Path, named: str, cut: bool, lookups: dict[str, str]) -> list[epath.Path]:
  if not named and cut and "subtitle" in lookups and epath.Path(lookups["subtitle"] + ".jsonl").exists():
    return [epath.Path(lookups["subtitle"] + ".jsonl")]
  patterns = (named,) if named else _RECORDS
  for pattern in patterns:
    paths = [path for path in storage.matching(source, pattern) if os.fspath(path) not in lookups.values()]
    if paths := [path for path in paths if named or not _is_list(path)]:
      return paths
  raise UserError(f"{source}: no records of clips ({', '.join(patterns)}); name them as `records`")


def _items(layout: Layout) -> Iterator[Item]:
  first, clips = peek(itertools.chain.from_iterable(_clips(path) for path in layout.records), 1)
  inline = any("text" in clip for _, clip, _ in first)
  if first and not (inline or layout.lookups):
    raise UserError(f'{first[0][2]}: no "text", and no file of subtitles or captions in {layout.records[0].parent}')
  for video, clip, where in clips:
    # It is counted only where subtitles stand in the records: a lookup counts by itself.
    lacking = ("subtitle",) if inline and not clip.get("text") else ()
    yield _item(layout, video, clip, where, lacking)


def _clips(path: epath.Path) -> Iterator[tuple[str, dict[str, Any], str]]:
  """(id of the video, record of the clip, its place) of a file of records."""
  for number, row in json_lines(os.fspath(path)):
    where = f"{path}, line {number}"
    if "clip" not in row:
      name = check_id(row.get("clip_id"), f"{where}, clip_id")
      yield row.get("video_id", name.split(".")[0]), row, where
      continue
    if not isinstance(row["clip"], list):
      raise UserError(f'{where}: "clip" must be a list, got {str(row["clip"])[:40]!r}')
    for index, clip in enumerate(row["clip"], 1):
      if not isinstance(clip, dict):
        raise UserError(f'{where}, clip {index}: expected {{"clip_id": ID, ...}}, got {str(clip)[:40]!r}')
      yield row.get("video_id", ""), clip, f"{where}, clip {index}"


def _item(layout: Layout, video: str, clip: dict[str, Any], where: str, lacking: tuple[str, ...]) -> Item:
  name = clip.get("clip_id")
  safe_join(layout.folder, name, f"{where}, clip_id")
  if layout.cut:
    path, start, end = safe_join(safe_join(layout.folder, video, f"{where}, video_id"), name, where), None, None
  else:
    path = safe_join(layout.folder, f"{check_id(video, f'{where}, video_id')}.mp4", f"{where}, video_id")
    start, end = _span(clip.get("span"), where)
  subtitle = clean_text(clip.get("text") or "", f"{where}, text")
  return Item(id=str(name), split="train", video=path, subtitle=subtitle, start=start, end=end, lacking=lacking)


def _span(span: Any, where: str) -> tuple[float, float]:
  """Seconds of ["HH:MM:SS.mmm", "HH:MM:SS.mmm"]. One that does not last is left to the decoder: it counts as short."""
  times = [_TIME.fullmatch(text) if isinstance(text, str) else None for text in span] if isinstance(span, list) else []
  if len(times) != 2 or not all(times):
    raise UserError(f'{where}: clips are taken from uncut videos by "span": ["HH:MM:SS.mmm", ...] of two, got {span!r}')
  start, end = (3600 * int(t[1]) + 60 * int(t[2]) + float(t[3]) for t in times if t)
  return start, end
