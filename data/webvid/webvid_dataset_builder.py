"""webvid: WebVid-2M and WebVid-10M, stock footage with one text per clip."""

from __future__ import annotations

import dataclasses
import itertools
import os
import pathlib
from collections.abc import Iterator

import tensorflow_datasets as tfds
from etils import epath

from clipvip_jax.data.engine import bad_lines, build_files
from clipvip_jax.data.engine.builder import CorpusBuilder
from clipvip_jax.data.engine.corpus_config import CorpusConfig
from clipvip_jax.data.engine.items import Item, check_id, clean_texts, peek, safe_join
from clipvip_jax.data.engine.tables import read_csv
from clipvip_jax.utils.errors import UserError

_SPLITS = {"train": "train", "validation": "val"}  # split -> its name in file names
# Tables of a split; the first pattern that matches is used. {size}: 2M or 10M.
_TABLES: tuple[str, ...] = ("results_{size}_{split}.csv", "results_{size}_{split}/*.csv", "{split}/partitions/*.csv")
_TABLES += tuple(f"{folder}/{pattern}" for folder in ("metadata", "data") for pattern in _TABLES)
_COLUMNS = ("videoid", "name")
# Paths of videos; the first pattern under which one of the first clips exists is used.
_VIDEO_PATHS = (
  "videos/{page_dir}/{videoid}.mp4",
  "videos/{split}/{page_dir}/{videoid}.mp4",
  "videos/{split}/{videoid}.mp4",
  "videos/{videoid}.mp4",
)
_PROBED_CLIPS = 1000


@dataclasses.dataclass(eq=False, kw_only=True)
class WebvidConfig(CorpusConfig):
  """Configuration of WebVid.

  Attributes:
    size: "2M" or "10M", as in the names of the original tables.
  """

  size: str
  splits: tuple[str, ...] = tuple(_SPLITS)


class Builder(CorpusBuilder):
  """Clips with one description each.

  Tables: results_SIZE_SPLIT.csv, results_SIZE_SPLIT/*.csv or SPLIT/partitions/*.csv, also in metadata/ or data/.
  Columns: videoid, name (the text) and, if videos are in folders of that name, page_dir; others are ignored.
  Videos: videos/PAGE_DIR/VIDEOID.mp4 or videos/VIDEOID.mp4, with or without a folder train or val after videos/.
  """

  code_path = pathlib.Path(__file__)
  VERSION = tfds.core.Version("1.0.0")
  BUILDER_CONFIGS = [  # noqa: RUF012 - as in TFDS
    WebvidConfig(name="2m", description="WebVid-2M at three frames a second.", size="2M", fps=3),
    WebvidConfig(name="10m", description="WebVid-10M at three frames a second.", size="10M", fps=3),
  ]

  def items(self, raw_dir: epath.Path) -> Iterator[Item]:
    """Yields the clips. Raises UserError for missing or invalid tables, or if none of the first videos exists."""
    config = self.builder_config
    assert isinstance(config, WebvidConfig)
    tables = {split: _find_tables(raw_dir, config.size, split) for split in config.splits}
    for split, paths in tables.items():
      yield from _items(raw_dir, split, itertools.chain.from_iterable(read_csv(path, *_COLUMNS) for path in paths))


def _find_tables(raw_dir: epath.Path, size: str, split: str) -> list[epath.Path]:
  if split not in _SPLITS:
    raise UserError(f"splits: {split!r} is unknown to WebVid; use {', '.join(_SPLITS)}")
  patterns = [pattern.format(size=size, split=_SPLITS[split]) for pattern in _TABLES]
  for pattern in patterns:
    if paths := build_files.glob(raw_dir, pattern):
      return paths
  raise UserError(f"{raw_dir}: no table of split {split!r}; put it at one of {', '.join(patterns)}")


def _items(raw_dir: epath.Path, split: str, rows: Iterator[tuple[str, dict[str, str]]]) -> Iterator[Item]:
  first, rows = peek(rows, _PROBED_CLIPS)
  matches = (
    pattern for row in first for pattern in _VIDEO_PATHS if epath.Path(_video(raw_dir, pattern, split, *row)).exists()
  )
  pattern = next(matches, "")
  if first and not pattern:
    patterns = ", ".join(_VIDEO_PATHS).replace("{split}", _SPLITS[split])
    raise UserError(
      f"{raw_dir}: none of the first {len(first)} videos of split {split!r} exists; put videos at one of {patterns}"
    )
  for where, row in rows:
    if (item := bad_lines.attempt(_item, raw_dir, pattern, split, where, row)) is not None:
      yield item


def _item(raw_dir: epath.Path, pattern: str, split: str, where: str, row: dict[str, str]) -> Item:
  return Item(
    id=check_id(row["videoid"], f"{where}, videoid"),
    split=split,
    video=_video(raw_dir, pattern, split, where, row),
    descriptions=clean_texts(row["name"], f"{where}, name"),
  )


def _video(raw_dir: epath.Path, pattern: str, split: str, where: str, row: dict[str, str]) -> str:
  names = {"videoid": row["videoid"], "page_dir": row.get("page_dir") or "."}
  for column, name in names.items():
    safe_join(raw_dir, name, f"{where}, {column}")
  return os.fspath(raw_dir / pattern.format(split=_SPLITS[split], **names))
