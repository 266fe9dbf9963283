"""webvid: WebVid-2M and WebVid-10M, clips of stock footage with one text each."""

from __future__ import annotations

import dataclasses
import itertools
import os
import pathlib
from collections.abc import Iterator

import tensorflow_datasets as tfds
from etils import epath

from clipvip_jax.utils.errors import UserError
from data.engine import storage
from data.engine.annotations import csv_rows
from data.engine.builder import CorpusBuilder, CorpusConfig
from data.engine.items import Item, check_id, clean_texts, peek, safe_join

_SPLITS = {"train": "train", "validation": "val"}  # of the corpus -> as its owner writes it
# Files of a split, the first pattern that there is. {size}: 2M or 10M.
_TABLES: tuple[str, ...] = ("results_{size}_{split}.csv", "results_{size}_{split}/*.csv", "{split}/partitions/*.csv")
_TABLES += tuple(f"{folder}/{pattern}" for folder in ("metadata", "data") for pattern in _TABLES)
_COLUMNS = ("videoid", "name")
# Where videos lie, the first pattern by which one of the first clips is found.
_VIDEOS = (
  "videos/{page_dir}/{videoid}.mp4",
  "videos/{split}/{page_dir}/{videoid}.mp4",
  "videos/{split}/{videoid}.mp4",
  "videos/{videoid}.mp4",
)
_TRIED = 1000  # clips by which the place of videos is found


@dataclasses.dataclass(eq=False, kw_only=True)
class WebvidConfig(CorpusConfig):
  """size: as in the names of the owner's tables."""

  size: str
  splits: tuple[str, ...] = tuple(_SPLITS)


class Builder(CorpusBuilder):
  """The owner's tables results_SIZE_SPLIT.csv, whole or in partitions, beside a folder of videos.

  Columns videoid, name (the text) and, where videos lie in folders of that name, page_dir; others are ignored. Tables
  may also be results_SIZE_SPLIT/*.csv or SPLIT/partitions/*.csv, all of them in metadata/ or data/ too. Videos are
  videos/PAGE_DIR/VIDEOID.mp4 or videos/VIDEOID.mp4, with or without a folder of the split, train or val, in between.
  """

  code_path = pathlib.Path(__file__)
  VERSION = tfds.core.Version("1.0.0")
  BUILDER_CONFIGS = [  # noqa: RUF012 - TFDS' own way
    WebvidConfig(name="2m", description="WebVid-2M at three frames a second.", size="2M", fps=3),
    WebvidConfig(name="10m", description="WebVid-10M at three frames a second.", size="10M", fps=3),
  ]

  def items(self, source: epath.Path) -> Iterator[Item]:
    """Raises UserError for tables that are absent or broken, and where none of the first videos is there."""
    config = self.builder_config
    assert isinstance(config, WebvidConfig)
    tables = {split: _tables(source, config.size, split) for split in config.splits}
    for split, paths in tables.items():
      yield from _items(source, split, itertools.chain.from_iterable(csv_rows(path, *_COLUMNS) for path in paths))


def _tables(source: epath.Path, size: str, split: str) -> list[epath.Path]:
  if split not in _SPLITS:
    raise UserError(f"splits: {split!r} is none of WebVid's; allowed: {', '.join(_SPLITS)}")
  patterns = [pattern.format(size=size, split=_SPLITS[split]) for pattern in _TABLES]
  for pattern in patterns:
    if paths := storage.matching(source, pattern):
      return paths
  raise UserError(f"{source}: no table of split {split!r}; looked for {', '.join(patterns)}")


def _items(source: epath.Path, split: str, rows: Iterator[tuple[str, dict[str, str]]]) -> Iterator[Item]:
  first, rows = peek(rows, _TRIED)
  places = (place for row in first for place in _VIDEOS if epath.Path(_video(source, place, split, *row)).exists())
  place = next(places, "")
  if first and not place:
    looked = ", ".join(_VIDEOS).replace("{split}", _SPLITS[split])
    raise UserError(f"{source}: no video of the first {len(first)} clips of split {split!r}; looked for {looked}")
  for where, row in rows:
    yield Item(
      id=check_id(row["videoid"], f"{where}, videoid"),
      split=split,
      video=_video(source, place, split, where, row),
      descriptions=clean_texts(row["name"], f"{where}, name"),
    )


def _video(source: epath.Path, place: str, split: str, where: str, row: dict[str, str]) -> str:
  names = {"videoid": row["videoid"], "page_dir": row.get("page_dir") or "."}
  for column, name in names.items():
    safe_join(source, name, f"{where}, {column}")
  return os.fspath(source / place.format(split=_SPLITS[split], **names))
