"""msrvtt: MSR-VTT, ten thousand web videos with twenty captions each."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

import tensorflow_datasets as tfds
from etils import epath

from clipvip_jax.utils.errors import UserError
from data.engine.annotations import (
  Clip,
  Pair,
  RetrievalConfig,
  Videos,
  check_name,
  csv_rows,
  find_file,
  find_optional_file,
  json_pairs,
  make_items,
  merge_pairs,
  stem,
)
from data.engine.builder import CorpusBuilder
from data.engine.items import Item
from data.engine.text_lookup import read_json

# Captions of all videos in one file, or as the owner hands them out.
_WHOLE, _PARTS = "MSRVTT_data.json", ("train_val_videodatainfo.json", "test_videodatainfo.json")
_TRAIN = {
  "9k": ("MSRVTT_train.9k.csv", "train9k.jsonl", "msrvtt_ret_train9k.json"),
  "7k": ("MSRVTT_train.7k.csv", "train7k.jsonl", "msrvtt_ret_train7k.json"),
}
_TEST = ("MSRVTT_JSFUSION_test.csv", "test1ka.jsonl", "msrvtt_ret_test1k.json")
_SPLITS = {"train": "train", "validate": "validation", "test": "test"}  # as the owner writes them -> of the corpus
_VIDEOS = ("videos/all", "TrainValVideo", "TestVideo", "videos", "MSRVTT_Videos", "videos_6fps")


@dataclasses.dataclass(eq=False, kw_only=True)
class MsrvttConfig(RetrievalConfig):
  """train: "9k" or "7k", tested on 1k-A; or "full", the owner's own splits."""

  train: str
  fps: float = 6.0


class Builder(CorpusBuilder):
  """Videos videoN.mp4 with all of their captions, of which training draws one at each visit; 1k-A has one of each.

  9k, 7k: the list MSRVTT_train.9k.csv (column video_id) with captions from MSRVTT_data.json, or from the owner's
  train_val_videodatainfo.json and test_videodatainfo.json; or train9k.jsonl, msrvtt_ret_train9k.json, which hold both,
  as `json_pairs` reads them. 1k-A: MSRVTT_JSFUSION_test.csv (columns video_id, sentence), test1ka.jsonl or
  msrvtt_ret_test1k.json. full: the same captions, by the "split" of their videos. Videos lie in videos/all,
  TrainValVideo and TestVideo, videos, or the source itself.
  """

  code_path = pathlib.Path(__file__)
  VERSION = tfds.core.Version("1.0.0")
  BUILDER_CONFIGS = [  # noqa: RUF012 - TFDS' own way
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
      description="The owner's splits, all captions in each of them; six frames a second.",
      train="full",
      splits=("train", "validation", "test"),
      sizes={"train": 6513, "validation": 497, "test": 2990},
    ),
  ]

  def items(self, source: epath.Path) -> Iterator[Item]:
    """Raises UserError for files that are absent or broken, by line or entry."""
    config = self.builder_config
    assert isinstance(config, MsrvttConfig)
    if config.train not in (*_TRAIN, "full"):
      raise UserError(f"train={config.train!r} is unknown; allowed: {', '.join(_TRAIN)}, full")
    videos = Videos(source, config.videos, _VIDEOS)
    if config.train == "full":
      yield from _full(_captions(source, "full"), videos)
      return
    test, train = find_file(source, *_TEST), find_file(source, *_TRAIN[config.train])
    yield from make_items("train", _train(source, train, config.train), videos)
    yield from make_items("test", merge_pairs(_pairs(test, "sentence")).values(), videos)


def _pairs(path: epath.Path, *columns: str) -> Iterator[Pair]:
  """Pairs of a list of videos, in whichever form it is."""
  if path.suffix != ".csv":
    yield from json_pairs(path)
    return
  for where, row in csv_rows(path, "video_id", *columns):
    yield where, row["video_id"], [row[column] for column in columns]


def _train(source: epath.Path, path: epath.Path, train: str) -> Iterable[Clip]:
  """The clips of the training list; those of a table get all of their captions, which stand elsewhere."""
  listed = merge_pairs(_pairs(path))
  if path.suffix == ".csv":
    captions = merge_pairs(pair for part in _captions(source, train) for pair in _sentences(part))
    for name, clip in listed.items():
      clip.texts.extend(captions[name].texts if name in captions else ())
  return listed.values()


def _captions(source: epath.Path, train: str) -> list[epath.Path]:
  """The files of captions. All of 7k stands in the first of two."""
  if whole := find_optional_file(source, _WHOLE):
    return [whole]
  if not any(find_optional_file(source, part) for part in _PARTS):
    find_file(source, _WHOLE, *_PARTS)
  return [find_file(source, part) for part in (_PARTS[:1] if train == "7k" else _PARTS)]


def _full(paths: list[epath.Path], videos: Videos) -> Iterator[Item]:
  """All videos with all captions, in the order of the files."""
  for path in paths:
    captions = merge_pairs(_sentences(path))
    for where, row in _entries(path, "videos"):
      if (split := _SPLITS.get(str(row.get("split")))) is None:
        raise UserError(f'{where}: a video\'s "split" is one of {", ".join(_SPLITS)}, got {row.get("split")!r}')
      name = check_name(row.get("video_id"), where)
      texts = captions[stem(name)].texts if stem(name) in captions else []
      yield from make_items(split, [Clip(name, where, texts)], videos)


def _sentences(path: epath.Path) -> Iterator[Pair]:
  return ((where, row.get("video_id"), row.get("caption")) for where, row in _entries(path, "sentences"))


def _entries(path: epath.Path, key: str) -> Iterator[tuple[str, dict[str, Any]]]:
  """(place, entry) of a list in one of the owner's files."""
  whole = read_json(os.fspath(path))
  rows = whole.get(key) if isinstance(whole, dict) else None
  if not isinstance(rows, list):
    raise UserError(f'{path}: no list "{key}"; the owner\'s files hold {{"videos": [...], "sentences": [...]}}')
  for number, row in enumerate(rows, 1):
    where = f"{path}, {key}, entry {number}"
    if not isinstance(row, dict):
      raise UserError(f"{where}: expected an object {{...}}, got {str(row)[:40]!r}")
    yield where, row
