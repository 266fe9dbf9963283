"""vatex: VATEX, ten-second clips of Kinetics-600 with ten English captions each."""

from __future__ import annotations

import dataclasses
import itertools
import pathlib
import posixpath
import re
from collections.abc import Iterable, Iterator

import tensorflow_datasets as tfds
from etils import epath

from clipvip_jax.data.engine.annotations import (
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
from clipvip_jax.data.engine.json_files import RowKeys
from clipvip_jax.data.engine.split_lists import listed_clips

_OWNERS_FILES = ("vatex_training_v1.0.json", "vatex_validation_v1.0.json")
_ALL_CAPTIONS = ("vatex_data.json", "ref_captions.json", "RET/ref_captions.json")
_KEYS = RowKeys(("videoID",), ("enCap",))
_LIST_FILES = {
  "train": ("public_split/trn_names.npy", "trn_names.npy", "train_list.txt"),
  "validation": ("public_split/val_names.npy", "val_names.npy", "val_list.txt"),
  "test": ("public_split/tst_names.npy", "tst_names.npy", "test_list.txt"),
}
_VIDEO_FOLDERS = ("videos", "VATEX_Videos", "train_video", "val_video", "test_video", "train", "val", "test")
_NAME = re.compile(r"(.+)_(\d{6})_(\d{6})", re.ASCII)  # YOUTUBEID_START_END in seconds


class Builder(CorpusBuilder):
  """Clips with their English captions, split as by Chen et al., 2020 (HGR), who halved the original validation clips.

  Captions: the original vatex_training_v1.0.json and vatex_validation_v1.0.json, lists of {"videoID", "enCap": [TEXT,
  ...]}; or vatex_data.json, {ID: {"enCap": [TEXT, ...]}}, or HGR's ref_captions.json, {ID: [TEXT, ...]}, of all clips.
  Splits: HGR's public_split/trn_names.npy, val_names.npy, tst_names.npy, which are read without unpickling, or
  train_list.txt, val_list.txt, test_list.txt, one name per line. The training list is optional for the original files.
  Videos: ID_START_END.mp4, ten seconds, or a folder of frames of this name; or entire videos, ID.mp4.
  """

  code_path = pathlib.Path(__file__)
  VERSION = tfds.core.Version("1.0.0")
  SIZE_HINT = " with HGR's lists of 1,500 validation and 1,500 test clips"
  BUILDER_CONFIGS = [  # noqa: RUF012 - as in TFDS
    RetrievalConfig(
      name="default",
      description="HGR's split; three frames a second.",
      fps=3,
      splits=tuple(_LIST_FILES),
      sizes={"train": 25_991, "validation": 1500, "test": 1500},
    )
  ]

  def items(self, raw_dir: epath.Path) -> Iterator[Item]:
    """Yields the clips. Raises UserError for missing or invalid annotations."""
    config = self.builder_config
    assert isinstance(config, RetrievalConfig)
    videos = VideoFinder(raw_dir, config.videos, _VIDEO_FOLDERS)
    paths = [find_file(raw_dir, _OWNERS_FILES[0], *_ALL_CAPTIONS)]
    is_owners = paths[0].name == _OWNERS_FILES[0]
    if is_owners:
      paths.append(find_file(raw_dir, _OWNERS_FILES[1]))
    lists = {
      split: (find_optional_file if is_owners and split == "train" else find_file)(raw_dir, *names)
      for split, names in _LIST_FILES.items()
    }
    files = [merge_clips(read_json_clips(path, _KEYS)) for path in paths]
    clips = dict(itertools.chain.from_iterable(file.items() for file in files))
    for split, path in lists.items():
      selected = files[0].values() if path is None else listed_clips(path, clips)
      yield from (_with_times(item) for item in make_items(split, selected, videos, _video_names))


def _video_names(clip: Clip) -> Iterable[str]:
  """Returns the names of the clip, then that of the entire video."""
  match = _NAME.fullmatch(clip.id)
  return [*video_names(clip), *([match[1]] if match else [])]


def _with_times(item: Item) -> Item:
  """Adds the times of the clip if its video is the entire one."""
  match = _NAME.fullmatch(item.id)
  if match and clip_key(posixpath.basename(item.video)) == clip_key(match[1]):
    return dataclasses.replace(item, start=float(match[2]), end=float(match[3]))
  return item
