"""msvd: MSVD (YouTube2Text), two thousand short web videos with about forty captions each."""

from __future__ import annotations

import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

import tensorflow_datasets as tfds
from etils import epath

from clipvip_jax.data.engine import bad_lines
from clipvip_jax.data.engine.annotations import (
  AnnotationRow,
  Clip,
  RetrievalConfig,
  VideoFinder,
  clip_key,
  find_file,
  find_optional_file,
  make_items,
  merge_clips,
  read_json_clips,
  video_names,
)
from clipvip_jax.data.engine.builder import CorpusBuilder
from clipvip_jax.data.engine.items import Item
from clipvip_jax.data.engine.json_files import excerpt
from clipvip_jax.data.engine.plain_pickle import read_plain_pickle
from clipvip_jax.data.engine.split_lists import listed_clips
from clipvip_jax.data.engine.text_files import read_lines
from clipvip_jax.utils.errors import UserError

_CAPTIONS = ("raw-captions.pkl", "AllVideoDescriptions.txt")  # of all videos, which lists divide into splits
_SPLIT_FILES = ("msvd_ret_{}.json", "{}.jsonl")
_LIST_FILE = "{}_list.txt"
_SPLITS = {"train": "train", "validation": "val", "test": "test"}  # split -> its name in file names
_MAPPING_FILE = "youtube_mapping.txt"
_VIDEO_FOLDERS = ("MSVD_Videos", "YouTubeClips", "videos", "video")


class Builder(CorpusBuilder):
  """Videos with all of their captions; training draws one per visit, and every caption of a test video is a query.

  Captions of all videos: raw-captions.pkl, {ID: [[WORD, ...], ...]}, as Collaborative Experts and CLIP4Clip distribute
  it, which is read without unpickling; or the original AllVideoDescriptions.txt, lines "ID CAPTION". With either,
  train_list.txt, val_list.txt and test_list.txt list the videos of the splits, one name per line.
  Or captions of each split: msvd_ret_train.json or train.jsonl, and so on, as read by `read_json_clips`.
  Videos: ID.avi, where ID is YOUTUBEID_START_END, or vidN.avi with youtube_mapping.txt, lines "ID vidN".
  """

  code_path = pathlib.Path(__file__)
  VERSION = tfds.core.Version("1.0.0")
  BUILDER_CONFIGS = [  # noqa: RUF012 - as in TFDS
    RetrievalConfig(
      name="default",
      description="Six frames a second.",
      fps=6,
      splits=tuple(_SPLITS),
      sizes={"train": 1200, "validation": 100, "test": 670},
    )
  ]

  def items(self, raw_dir: epath.Path) -> Iterator[Item]:
    """Yields the clips. Raises UserError for missing or invalid annotations."""
    config = self.builder_config
    assert isinstance(config, RetrievalConfig)
    videos, numbers = VideoFinder(raw_dir, config.videos, _VIDEO_FOLDERS, suffix=".avi"), _read_mapping(raw_dir)
    captions = find_optional_file(raw_dir, *_CAPTIONS)
    paths = {
      split: find_file(raw_dir, _LIST_FILE.format(word))
      if captions
      else find_file(raw_dir, *(file.format(word) for file in _SPLIT_FILES), *_CAPTIONS)
      for split, word in _SPLITS.items()
    }
    clips = merge_clips(_read_captions(captions)) if captions else {}
    for split, path in paths.items():
      selected = listed_clips(path, clips) if captions else merge_clips(read_json_clips(path)).values()
      yield from make_items(split, selected, videos, lambda clip: _video_names(clip, numbers))


def _read_mapping(raw_dir: epath.Path) -> dict[str, str]:
  """Returns {`clip_key` of a video: vidN}; empty if there is no such file."""
  if (path := find_optional_file(raw_dir, _MAPPING_FILE)) is None:
    return {}
  pairs = [(number, line.split()) for number, line in enumerate(read_lines(path), 1) if line.strip()]
  for number, pair in pairs:
    if len(pair) != 2:
      raise UserError(f'{path}, line {number}: expected "ID vidN", got {excerpt(" ".join(pair))}')
  return {clip_key(name): short for _, (name, short) in pairs}


def _video_names(clip: Clip, numbers: dict[str, str]) -> Iterable[str]:
  short = numbers.get(clip_key(clip.name))
  return [*video_names(clip), *([short] if short else [])]


def _read_captions(path: epath.Path) -> Iterator[AnnotationRow]:
  return _read_pickle(path) if path.suffix == ".pkl" else _read_descriptions(path)


def _read_descriptions(path: epath.Path) -> Iterator[AnnotationRow]:
  for number, line in enumerate(read_lines(path), 1):
    if line.strip() and not line.startswith("#"):
      name, _, text = line.strip().partition(" ")
      yield f"{path}, line {number}", name, text


def _read_pickle(path: epath.Path) -> Iterator[AnnotationRow]:
  captions = read_plain_pickle(path)
  if not isinstance(captions, dict):
    raise UserError(f"{path}: expected {{ID: [[WORD, ...], ...]}}, got {excerpt(captions)}")
  for name, texts in captions.items():
    where = f"{path}, {name!r}"
    if (joined := bad_lines.attempt(_join_words, texts, where)) is not None:
      yield where, name, joined


def _join_words(texts: Any, where: str) -> list[str]:
  """Returns captions as texts; they are lists of words, or texts."""
  joined = [" ".join(text) if _is_list_of_texts(text) else text for text in texts] if _is_list(texts) else []
  if not _is_list_of_texts(joined) or not _is_list(texts):
    raise UserError(f"{where}: expected captions as lists of words, got {excerpt(texts)}")
  return joined


def _is_list(value: Any) -> bool:
  return isinstance(value, list | tuple)


def _is_list_of_texts(value: Any) -> bool:
  return _is_list(value) and all(isinstance(item, str) for item in value)
