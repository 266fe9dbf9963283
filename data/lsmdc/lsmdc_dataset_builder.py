"""lsmdc: LSMDC, movie clips with audio descriptions for the blind."""

from __future__ import annotations

import pathlib
import posixpath
from collections.abc import Iterable, Iterator

import tensorflow_datasets as tfds
from etils import epath

from clipvip_jax.data.engine.annotations import (
  AnnotationRow,
  Clip,
  RetrievalConfig,
  VideoFinder,
  find_file,
  find_optional_file,
  make_items,
  merge_clips,
  read_json_clips,
)
from clipvip_jax.data.engine.builder import CorpusBuilder
from clipvip_jax.data.engine.items import Item
from clipvip_jax.data.engine.text_files import read_lines
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import log

_FILES = {
  "train": (
    "LSMDC16_annos_training.csv",
    "LSMDC16_annos_training_someone.csv",
    "train_101k_frame.jsonl",
    "train.jsonl",
    "lsmdc_ret_train.json",
  ),
  "validation": ("LSMDC16_annos_val.csv", "LSMDC16_annos_val_someone.csv", "val.jsonl", "lsmdc_ret_val.json"),
  "test": (
    "LSMDC16_challenge_1000_publictect.csv",
    "test_1k_frame.jsonl",
    "test.jsonl",
    "lsmdc_ret_test_1000.json",
  ),
}
_NUM_COLUMNS = 6  # clip, start and end aligned, start and end extracted, sentence
_VIDEO_FOLDERS = ("videos", "videos/avi", "LSMDC_Videos", "avi")


class Builder(CorpusBuilder):
  """Clips with one sentence each; a few have two.

  Annotations: the original LSMDC16_annos_training.csv, LSMDC16_annos_val.csv and LSMDC16_challenge_1000_publictect.csv,
  whose lines are a clip, four times and a sentence, separated by tabs; or JSON as read by `read_json_clips`:
  train_101k_frame.jsonl or train.jsonl, val.jsonl, test_1k_frame.jsonl or test.jsonl. Those of validation are optional.
  Videos: MOVIE/CLIP.avi or CLIP.avi, where MOVIE is the name of the clip up to its time.
  """

  code_path = pathlib.Path(__file__)
  VERSION = tfds.core.Version("1.0.0")
  BUILDER_CONFIGS = [  # noqa: RUF012 - as in TFDS
    RetrievalConfig(
      name="default",
      description="Six frames a second.",
      fps=6,
      splits=("train", "test"),
      sizes={"validation": 7408, "test": 1000},
    )
  ]

  def items(self, raw_dir: epath.Path) -> Iterator[Item]:
    """Yields the clips. Raises UserError for missing or invalid annotations."""
    config = self.builder_config
    assert isinstance(config, RetrievalConfig)
    videos = VideoFinder(raw_dir, config.videos, _VIDEO_FOLDERS, suffix=".avi")
    paths = {
      split: (find_file if split in config.splits else find_optional_file)(raw_dir, *names)
      for split, names in _FILES.items()
    }
    for split, path in paths.items():
      if path is None:
        log.info("%s: no %s; skipping split %s", raw_dir, " or ".join(_FILES[split]), split)
        continue
      rows = _read_table(path) if path.suffix == ".csv" else read_json_clips(path)
      yield from make_items(split, merge_clips(rows).values(), videos, _video_names)


def _read_table(path: epath.Path) -> Iterator[AnnotationRow]:
  # Not with the csv module: quotation marks are part of these sentences.
  for number, line in enumerate(read_lines(path), 1):
    if cells := line.strip().split("\t") if line.strip() else []:
      where = f"{path}, line {number}"
      if len(cells) != _NUM_COLUMNS:
        raise UserError(f"{where}: expected {_NUM_COLUMNS} columns separated by tabs, got {len(cells)}")
      yield where, cells[0], cells[-1]


def _video_names(clip: Clip) -> Iterable[str]:
  """Returns the name in the movie's folder, as in the annotations, and without a folder."""
  name = posixpath.basename(clip.name)
  movie = clip.id.rpartition("_")[0]
  return dict.fromkeys((posixpath.join(movie, name), clip.name, name))
