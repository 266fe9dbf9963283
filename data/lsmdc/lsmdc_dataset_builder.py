"""lsmdc: LSMDC, clips of movies with what is described for the blind."""

from __future__ import annotations

import pathlib
import posixpath
from collections.abc import Iterable, Iterator

import tensorflow_datasets as tfds
from etils import epath

from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import log
from data.engine.annotations import (
  Clip,
  Pair,
  RetrievalConfig,
  Videos,
  find_file,
  find_optional_file,
  json_pairs,
  lines_of,
  make_items,
  merge_pairs,
)
from data.engine.builder import CorpusBuilder
from data.engine.items import Item

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
_COLUMNS = 6  # clip, begin and end aligned, begin and end extracted, sentence
_VIDEOS = ("videos", "videos/avi", "LSMDC_Videos", "avi")


class Builder(CorpusBuilder):
  """Clips MOVIE/CLIP.avi, or CLIP.avi, by the name of the clip; few have a second sentence.

  Annotations are the owner's LSMDC16_annos_training.csv, LSMDC16_annos_val.csv and
  LSMDC16_challenge_1000_publictect.csv, whose lines are the clip, four times and a sentence, separated by tabs; or
  JSON as `json_pairs` reads it: train_101k_frame.jsonl or train.jsonl, val.jsonl, test_1k_frame.jsonl or test.jsonl.
  There need be none for validation. The folder of a movie is the clip's name up to its time.
  """

  code_path = pathlib.Path(__file__)
  VERSION = tfds.core.Version("1.0.0")
  BUILDER_CONFIGS = [  # noqa: RUF012 - TFDS' own way
    RetrievalConfig(
      name="default",
      description="Six frames a second.",
      fps=6,
      splits=("train", "test"),
      sizes={"validation": 7408, "test": 1000},
    )
  ]

  def items(self, source: epath.Path) -> Iterator[Item]:
    """Raises UserError for files that are absent or broken, by line or entry."""
    config = self.builder_config
    assert isinstance(config, RetrievalConfig)
    videos = Videos(source, config.videos, _VIDEOS, suffix=".avi")
    paths = {
      split: (find_file if split in config.splits else find_optional_file)(source, *names)
      for split, names in _FILES.items()
    }
    for split, path in paths.items():
      if path is None:
        log.info("%s: no %s, so there is no split %s", source, " or ".join(_FILES[split]), split)
        continue
      pairs = _table(path) if path.suffix == ".csv" else json_pairs(path)
      yield from make_items(split, merge_pairs(pairs).values(), videos, _places)


def _table(path: epath.Path) -> Iterator[Pair]:
  # The csv module is of no use: quotes in these sentences are part of them.
  for number, line in enumerate(lines_of(path), 1):
    if cells := line.strip().split("\t") if line.strip() else []:
      where = f"{path}, line {number}"
      if len(cells) != _COLUMNS:
        raise UserError(f"{where}: {_COLUMNS} columns separated by tabs are expected, got {len(cells)}")
      yield where, cells[0], cells[-1]


def _places(clip: Clip) -> Iterable[str]:
  """In the movie's folder, as the file has it, and in no folder."""
  name = posixpath.basename(clip.name)
  movie = clip.id.rpartition("_")[0]
  return dict.fromkeys((posixpath.join(movie, name), clip.name, name))
