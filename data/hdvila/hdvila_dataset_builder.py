"""hdvila: HD-VILA-100M, clips with transcribed speech, and captions of their middle frames if available."""

from __future__ import annotations

import itertools
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import tensorflow_datasets as tfds
from etils import epath

from clipvip_jax.data.engine import bad_lines
from clipvip_jax.data.engine.builder import CorpusBuilder
from clipvip_jax.data.engine.items import Item, check_id, clean_text, peek, safe_join
from clipvip_jax.data.engine.json_files import excerpt, read_json_lines
from clipvip_jax.data.engine.text_lookup import check_lookups
from clipvip_jax.data.hdvila.layout import HdvilaConfig, Layout
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import log
from clipvip_jax.utils.timestamps import parse_time


class Builder(CorpusBuilder):
  """Clips of the original records, or of the list beside the subtitles; training split only.

  Records: JSON lines {"video_id": ID, "clip": [{"clip_id": "ID.7.mp4", "span": ["00:00:17.759", "00:00:23.279"],
  "text"?: SUBTITLE}]}. A list: lines {"clip_id": "ID.7.mp4", "text"?: SUBTITLE}, with "span" if videos are uncut. Both
  are streamed.
  Subtitles that are not in the records, and captions: an LMDB of UTF-8 texts by clip_id, or JSON, {CLIP_ID: TEXT} or
  [{"image_id": CLIP_ID, "caption": TEXT}], which each worker holds in memory.
  `Layout.find` documents where files are searched.
  """

  code_path = pathlib.Path(__file__)
  VERSION = tfds.core.Version("1.0.0")
  BUILDER_CONFIGS = [  # noqa: RUF012 - as in TFDS
    HdvilaConfig(name="default", description="Three frames a second.", fps=3)
  ]

  def items(self, raw_dir: epath.Path) -> Iterator[Item]:
    """Yields the clips. Raises UserError for an invalid line, or texts of other clips."""
    layout = self._layout(raw_dir)
    log.info("%s: %s", raw_dir, layout)
    return check_lookups(_items(layout), layout.lookups)

  def lookups(self, raw_dir: epath.Path) -> dict[str, str]:
    """Returns the files of subtitles and captions. Raises UserError if several files qualify."""
    return self._layout(raw_dir).lookups

  def _layout(self, raw_dir: epath.Path) -> Layout:
    assert isinstance(self.builder_config, HdvilaConfig)
    return Layout.find(raw_dir, self.builder_config)


def _items(layout: Layout) -> Iterator[Item]:
  first, clips = peek(itertools.chain.from_iterable(_clips(path) for path in layout.records), 1)
  has_texts = any("text" in clip for _, clip, _ in first)
  if first and not (has_texts or layout.lookups):
    raise UserError(
      f'{first[0][2]}: no "text", and no file of subtitles or captions in {layout.records[0].parent}; add one of them'
    )
  for video, clip, where in clips:
    # Counted only if records have subtitles: lookups are counted when records are built.
    missing_texts = ("subtitle",) if has_texts and not clip.get("text") else ()
    if (item := bad_lines.attempt(_item, layout, video, clip, where, missing_texts)) is not None:
      yield item


def _clips(path: epath.Path) -> Iterator[tuple[str, dict[str, Any], str]]:
  """Yields (video id, clip, location) of a file of records."""
  for number, row in read_json_lines(os.fspath(path)):
    where = f"{path}, line {number}"
    if "clip" not in row:
      name = check_id(row.get("clip_id"), f"{where}, clip_id")
      yield row.get("video_id", name.split(".")[0]), row, where
      continue
    if not isinstance(row["clip"], list):
      raise UserError(f'{where}: "clip" must be a list, got {excerpt(row["clip"])}')
    for index, clip in enumerate(row["clip"], 1):
      if not isinstance(clip, dict):
        raise UserError(f'{where}, clip {index}: expected {{"clip_id": ID, ...}}, got {excerpt(clip)}')
      yield row.get("video_id", ""), clip, f"{where}, clip {index}"


def _item(layout: Layout, video: str, clip: dict[str, Any], where: str, missing_texts: tuple[str, ...]) -> Item:
  name = clip.get("clip_id")
  safe_join(layout.folder, name, f"{where}, clip_id")
  if layout.cut:
    path, start, end = safe_join(safe_join(layout.folder, video, f"{where}, video_id"), name, where), None, None
  else:
    path = safe_join(layout.folder, f"{check_id(video, f'{where}, video_id')}.mp4", f"{where}, video_id")
    start, end = _parse_span(clip.get("span"), where)
  return Item(
    id=str(name),
    split="train",
    video=path,
    subtitle=clean_text(clip.get("text") or "", f"{where}, text"),
    start=start,
    end=end,
    missing_texts=missing_texts,
  )


def _parse_span(span: Any, where: str) -> tuple[float, float]:
  """Returns start and end in seconds of ["HH:MM:SS.mmm", "HH:MM:SS.mmm"]. Empty spans become too short when decoded."""
  times = [parse_time(text) if isinstance(text, str) else None for text in span] if isinstance(span, list) else []
  if len(times) != 2 or times[0] is None or times[1] is None:
    raise UserError(
      f'{where}: clips of uncut videos need "span": ["HH:MM:SS.mmm", "HH:MM:SS.mmm"], got {excerpt(span)}'
    )
  return times[0], times[1]
