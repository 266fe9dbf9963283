"""youcook2: YouCook2, cooking videos divided into steps with one sentence each."""

from __future__ import annotations

import collections
import dataclasses
import os
import pathlib
import posixpath
from collections.abc import Iterator
from typing import Any

import tensorflow_datasets as tfds
from etils import epath

from clipvip_jax.data.engine import bad_lines
from clipvip_jax.data.engine.annotations import RetrievalConfig, VideoFinder, check_name, find_file
from clipvip_jax.data.engine.builder import CorpusBuilder
from clipvip_jax.data.engine.items import Item, check_times, clean_texts
from clipvip_jax.data.engine.json_files import excerpt, read_json
from clipvip_jax.data.engine.tables import read_csv
from clipvip_jax.utils.errors import UserError

_OWNERS_FILE, _REPORTED_FILE = "youcookii_annotations_trainval.json", "validation_youcook.csv"
_SPLITS = {"training": "train", "validation": "validation"}  # original name -> split
_VIDEO_FOLDERS = ("raw_videos", "videos")
_CSV_COLUMNS = ("video_id", "task", "start", "end", "text")

# Unchecked (location, video, type of recipe, [start, end], text).
_Segment = tuple[str, Any, Any, Any, Any]


@dataclasses.dataclass(eq=False, kw_only=True)
class Youcook2Config(RetrievalConfig):
  """Configuration of YouCook2.

  Attributes:
    reported: whether validation has only the segments that results are reported on, those of validation_youcook.csv.
  """

  reported: bool = True
  fps: float = 3.0
  splits: tuple[str, ...] = tuple(_SPLITS.values())


class Builder(CorpusBuilder):
  """Segments of videos. The original test split has no public sentences; results are reported on validation.

  Annotations: the original youcookii_annotations_trainval.json, {"database": {VIDEO: {"subset", "recipe_type",
  "annotations": [{"segment": [START, END], "sentence"}]}}}. Results are usually reported on the 3,350 of 3,492 segments
  whose videos are not in HowTo100M: the list validation_youcook.csv of Miech et al., 2020 (MIL-NCE), with columns
  video_id, task, start, end, text.
  Videos: training/RECIPE/VIDEO.mp4 or another extension, validation/RECIPE/VIDEO.mp4, in raw_videos, videos or the raw
  folder itself; also in a folder VIDEO; or VIDEO.mp4. A clip is named VIDEO_N, the Nth segment of its video from 0.
  """

  code_path = pathlib.Path(__file__)
  VERSION = tfds.core.Version("1.0.0")
  SIZE_HINT = f", or MIL-NCE's {_REPORTED_FILE}"
  BUILDER_CONFIGS = [  # noqa: RUF012 - as in TFDS
    Youcook2Config(
      name="default",
      description="The validation segments that results are reported on; three frames a second.",
      sizes={"train": 10_337, "validation": 3350},
    ),
    Youcook2Config(
      name="full",
      description="The original splits, all segments; three frames a second.",
      reported=False,
      sizes={"train": 10_337, "validation": 3492},
    ),
  ]

  def items(self, raw_dir: epath.Path) -> Iterator[Item]:
    """Yields the clips. Raises UserError for missing or invalid annotations."""
    config = self.builder_config
    assert isinstance(config, Youcook2Config)
    videos = VideoFinder(raw_dir, config.videos, _VIDEO_FOLDERS)
    owners = find_file(raw_dir, _OWNERS_FILE)
    reported = find_file(raw_dir, _REPORTED_FILE) if config.reported else None
    segments = _read_owners(owners)
    if reported:
      segments["validation"] = list(_read_reported(reported))
    for subset, rows in segments.items():
      yield from _items(subset, rows, videos)


def _read_owners(path: epath.Path) -> dict[str, list[_Segment]]:
  """Returns the segments of each of the original splits."""
  content = read_json(os.fspath(path))
  database = content.get("database") if isinstance(content, dict) else None
  if not isinstance(database, dict):
    raise UserError(f'{path}: expected {{"database": {{VIDEO: ...}}}} as in the original file, got {excerpt(content)}')
  segments: dict[str, list[_Segment]] = {subset: [] for subset in _SPLITS}
  for name, video in database.items():
    where = f"{path}, {name!r}"
    rows = bad_lines.attempt(_check_video, video, where) or []
    for number, row in enumerate(rows):
      place = f"{where}, annotation {number}"
      if bad_lines.attempt(_check_annotation, row, place):
        segments[video["subset"]].append((place, name, video.get("recipe_type"), row["segment"], row.get("sentence")))
  return segments


def _check_video(video: Any, where: str) -> list[Any]:
  """Returns the annotations of a video."""
  if not isinstance(video, dict) or not isinstance(video.get("annotations"), list):
    raise UserError(f'{where}: expected {{"subset": ..., "annotations": [...]}}, got {excerpt(video)}')
  if video.get("subset") not in _SPLITS:
    raise UserError(f'{where}: "subset" must be {" or ".join(_SPLITS)}, got {excerpt(video.get("subset"))}')
  return video["annotations"]


def _check_annotation(row: Any, where: str) -> bool:
  segment = row.get("segment") if isinstance(row, dict) else None
  if not isinstance(segment, list) or len(segment) != 2 or None in segment:
    raise UserError(f'{where}: expected {{"segment": [START, END], "sentence": TEXT}}, got {excerpt(row)}')
  return True


def _read_reported(path: epath.Path) -> Iterator[_Segment]:
  for where, row in read_csv(path, *_CSV_COLUMNS):
    times = bad_lines.attempt(_parse_times, row, where)
    if times is not None:
      yield where, row["video_id"], row["task"], times, row["text"]


def _parse_times(row: dict[str, str], where: str) -> list[float]:
  try:
    return [float(row["start"]), float(row["end"])]
  except ValueError as error:
    raise UserError(f"{where}: start and end must be seconds ({error}); correct them") from error


def _items(subset: str, segments: list[_Segment], videos: VideoFinder) -> Iterator[Item]:
  """Yields the items of a split; looks for each video once."""
  paths: dict[tuple[str, str], str] = {}
  counts: collections.Counter[str] = collections.Counter()
  for where, name, recipe, segment, text in segments:
    key = (check_name(name, where), check_name(str(recipe or subset), f"{where}, type of recipe"))
    if key not in paths:
      paths[key] = _find_video(videos, subset, *key)
    number = counts[name]
    counts[name] += 1
    item = bad_lines.attempt(_item, f"{name}_{number}", segment, text, where)
    if item is not None:
      yield dataclasses.replace(item, split=_SPLITS[subset], video=paths[key])


def _item(clip_id: str, segment: Any, text: Any, where: str) -> Item:
  start, end = check_times(segment[0], segment[1], where)
  return Item(id=clip_id, split="", video="", descriptions=clean_texts(text, where), start=start, end=end)


def _find_video(videos: VideoFinder, subset: str, video: str, recipe: str) -> str:
  """Returns the path of a video. A folder of its name may contain it: such a folder is not one of frames."""
  folders = (posixpath.join(subset, recipe), recipe, subset, "")
  nested = videos.path([posixpath.join(folder, video, video) for folder in folders])
  return nested if epath.Path(nested).exists() else videos.path([posixpath.join(folder, video) for folder in folders])
