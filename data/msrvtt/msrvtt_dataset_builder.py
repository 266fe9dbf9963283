"""msrvtt: MSR-VTT, ten thousand web videos with twenty captions each."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

import tensorflow_datasets as tfds
from etils import epath

from clipvip_jax.data.engine.annotations import (
  AnnotationRow,
  Clip,
  RetrievalConfig,
  VideoFinder,
  check_name,
  clip_key,
  find_file,
  find_optional_file,
  make_items,
  merge_clips,
  read_json_clips,
)
from clipvip_jax.data.engine.builder import CorpusBuilder
from clipvip_jax.data.engine.items import Item
from clipvip_jax.data.engine.json_files import excerpt, read_json
from clipvip_jax.data.engine.tables import read_csv
from clipvip_jax.utils.errors import UserError

# Captions of all videos in one file, or in the original two files.
_ALL_CAPTIONS, _OWNERS_CAPTIONS = "MSRVTT_data.json", ("train_val_videodatainfo.json", "test_videodatainfo.json")
_TRAIN_FILES = {
  "9k": ("MSRVTT_train.9k.csv", "train9k.jsonl", "msrvtt_ret_train9k.json"),
  "7k": ("MSRVTT_train.7k.csv", "train7k.jsonl", "msrvtt_ret_train7k.json"),
}
_TEST_FILES = ("MSRVTT_JSFUSION_test.csv", "test1ka.jsonl", "msrvtt_ret_test1k.json")
_SPLITS = {"train": "train", "validate": "validation", "test": "test"}  # original name -> split
_VIDEO_FOLDERS = ("videos/all", "TrainValVideo", "TestVideo", "videos", "MSRVTT_Videos", "videos_6fps")


@dataclasses.dataclass(eq=False, kw_only=True)
class MsrvttConfig(RetrievalConfig):
  """Configuration of MSR-VTT.

  Attributes:
    train: "9k" or "7k" training videos, with 1k-A as test split; or "full", the original splits.
  """

  train: str
  fps: float = 6.0


class Builder(CorpusBuilder):
  """Videos with all of their captions, of which training draws one per visit; those of 1k-A have one caption each.

  9k, 7k: the list MSRVTT_train.9k.csv (column video_id) with captions from MSRVTT_data.json, or from the original
  train_val_videodatainfo.json and test_videodatainfo.json; or train9k.jsonl or msrvtt_ret_train9k.json, which hold
  both, as read by `read_json_clips`.
  1k-A: MSRVTT_JSFUSION_test.csv (columns video_id, sentence), test1ka.jsonl or msrvtt_ret_test1k.json.
  full: the same files of captions, split by the "split" of their videos.
  Videos: videoN.mp4 in videos/all, TrainValVideo and TestVideo, videos, or the raw folder itself.
  """

  code_path = pathlib.Path(__file__)
  VERSION = tfds.core.Version("1.0.0")
  BUILDER_CONFIGS = [  # noqa: RUF012 - as in TFDS
    MsrvttConfig(
      name="9k",
      description="9,000 videos for training, 1k-A for testing; six frames a second.",
      train="9k",
      splits=("train", "test"),
      sizes={"train": 9000, "test": 1000},
    ),
    MsrvttConfig(
      name="7k",
      description="7,010 videos for training, 1k-A for testing; six frames a second.",
      train="7k",
      splits=("train", "test"),
      sizes={"train": 7010, "test": 1000},
    ),
    MsrvttConfig(
      name="full",
      description="The original splits, all captions in each of them; six frames a second.",
      train="full",
      splits=("train", "validation", "test"),
      sizes={"train": 6513, "validation": 497, "test": 2990},
    ),
  ]

  def items(self, raw_dir: epath.Path) -> Iterator[Item]:
    """Yields the clips. Raises UserError for missing or invalid annotations."""
    config = self.builder_config
    assert isinstance(config, MsrvttConfig)
    if config.train not in (*_TRAIN_FILES, "full"):
      raise UserError(f"train={config.train!r} is unknown; use {', '.join(_TRAIN_FILES)} or full")
    videos = VideoFinder(raw_dir, config.videos, _VIDEO_FOLDERS)
    if config.train == "full":
      yield from _full_items(_caption_files(raw_dir, "full"), videos)
      return
    test, train = find_file(raw_dir, *_TEST_FILES), find_file(raw_dir, *_TRAIN_FILES[config.train])
    yield from make_items("train", _train_clips(raw_dir, train, config.train), videos)
    yield from make_items("test", merge_clips(_read_list(test, "sentence")).values(), videos)


def _read_list(path: epath.Path, *columns: str) -> Iterator[AnnotationRow]:
  """Yields the rows of a list of videos, in CSV or JSON. In CSV, `columns` hold the texts."""
  if path.suffix != ".csv":
    yield from read_json_clips(path)
    return
  for where, row in read_csv(path, "video_id", *columns):
    yield where, row["video_id"], [row[column] for column in columns]


def _train_clips(raw_dir: epath.Path, path: epath.Path, train: str) -> Iterable[Clip]:
  """Returns the clips of a training list; those of a CSV file get their captions from other files."""
  clips = merge_clips(_read_list(path))
  if path.suffix == ".csv":
    captions = merge_clips(row for file in _caption_files(raw_dir, train) for row in _read_captions(file))
    for name, clip in clips.items():
      clip.texts.extend(captions[name].texts if name in captions else ())
  return clips.values()


def _caption_files(raw_dir: epath.Path, train: str) -> list[epath.Path]:
  """Returns the files of captions. All videos of 7k are in the first of the original two files."""
  if path := find_optional_file(raw_dir, _ALL_CAPTIONS):
    return [path]
  if not any(find_optional_file(raw_dir, name) for name in _OWNERS_CAPTIONS):
    find_file(raw_dir, _ALL_CAPTIONS, *_OWNERS_CAPTIONS)
  return [find_file(raw_dir, name) for name in (_OWNERS_CAPTIONS[:1] if train == "7k" else _OWNERS_CAPTIONS)]


def _full_items(paths: list[epath.Path], videos: VideoFinder) -> Iterator[Item]:
  """Yields all videos with all captions, in the order of the files."""
  for path in paths:
    captions = merge_clips(_read_captions(path))
    for where, row in _read_entries(path, "videos"):
      if (split := _SPLITS.get(str(row.get("split")))) is None:
        raise UserError(f'{where}: "split" must be one of {", ".join(_SPLITS)}, got {excerpt(row.get("split"))}')
      name = check_name(row.get("video_id"), where)
      texts = captions[clip_key(name)].texts if clip_key(name) in captions else []
      yield from make_items(split, [Clip(name, where, texts)], videos)


def _read_captions(path: epath.Path) -> Iterator[AnnotationRow]:
  return ((where, row.get("video_id"), row.get("caption")) for where, row in _read_entries(path, "sentences"))


def _read_entries(path: epath.Path, key: str) -> Iterator[tuple[str, dict[str, Any]]]:
  """Yields (location, entry) of a list in one of the original files."""
  content = read_json(os.fspath(path))
  rows = content.get(key) if isinstance(content, dict) else None
  if not isinstance(rows, list):
    raise UserError(
      f'{path}: no list "{key}"; expected {{"videos": [...], "sentences": [...]}} as in the original files'
    )
  for number, row in enumerate(rows, 1):
    where = f"{path}, {key}, entry {number}"
    if not isinstance(row, dict):
      raise UserError(f"{where}: expected a JSON object {{...}}, got {excerpt(row)}")
    yield where, row
