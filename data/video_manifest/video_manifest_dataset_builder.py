"""video_manifest: anybody's own videos and texts, one JSON object a line."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import tensorflow_datasets as tfds
from etils import epath

from clipvip_jax.utils.errors import UserError
from data.engine import storage
from data.engine.builder import CorpusBuilder, CorpusConfig
from data.engine.items import Item, check_id, clean_text, clean_texts
from data.engine.text_lookup import json_lines

_LONGEST = 1e8  # seconds: no video is longer
_REMOTE = ("gs://", "s3://")
_FIELDS = ("video", "text", "caption", "subtitle", "start", "end", "split", "id")


@dataclasses.dataclass(eq=False, kw_only=True)
class VideoManifestConfig(CorpusConfig):
  """Splits are those that the manifest names. texts: "several", one of a list drawn at each visit, or
  "paragraph", a list joined to one text. min_frames: of a video; an image is always a clip of one frame."""

  texts: str = "several"
  min_frames: int = 1
  splits: tuple[str, ...] = ()


class Builder(CorpusBuilder):
  """Lines `{"video": PATH, "text": TEXT or [TEXT, ...], "caption"?, "subtitle"?, "start"?, "end"?, "split"?, "id"?}`.

  video: a file, an image or a folder of frames, relative to the manifest. text: descriptions of the clip. caption: of
  its middle frame. subtitle: what is said. start, end: seconds. split: "train" unless said. id: by default the path,
  with start and end where they are given; each may stand once in a split.
  """

  code_path = pathlib.Path(__file__)
  VERSION = tfds.core.Version("1.0.0")
  BUILDER_CONFIGS = [  # noqa: RUF012 - TFDS' own way
    VideoManifestConfig(name="default", description="Three frames a second, as HD-VILA's.", fps=3),
    VideoManifestConfig(name="all_frames", description="Every frame.", short_side=0),
  ]

  @property
  def source(self) -> epath.Path:
    """The manifest."""
    if not self.options.source:
      raise UserError("name the manifest, a file of JSON lines, with --source=FILE")
    return storage.absolute(self.options.source)

  def items(self, source: epath.Path) -> Iterator[Item]:
    """Raises UserError for a broken line, by its number."""
    config = self.builder_config
    assert isinstance(config, VideoManifestConfig)
    if config.texts not in ("several", "paragraph"):
      raise UserError(f"texts={config.texts!r} is unknown; allowed: several, paragraph")
    for number, row in json_lines(os.fspath(source)):
      yield _item(row, f"{source}, line {number}", source.parent, joined=config.texts == "paragraph")


def _item(row: dict[str, Any], where: str, folder: epath.Path, *, joined: bool) -> Item:
  unknown = sorted(row.keys() - set(_FIELDS))
  if unknown:
    raise UserError(f"{where}: unknown fields {unknown}; allowed: {', '.join(_FIELDS)}")
  video = check_id(row.get("video"), f"{where}, video")
  if "://" in video and not video.startswith(_REMOTE):
    raise UserError(f"{where}: {video[:80]!r} cannot be read from there; download it, or use {' or '.join(_REMOTE)}")
  start, end = (_seconds(row, name, where) for name in ("start", "end"))
  if end is not None and end <= (start or 0):
    raise UserError(f"{where}: end {end:g} is not after start {start or 0:g}")
  part = "" if start is None and end is None else f"@{start or 0:g}-{'' if end is None else f'{end:g}'}"
  descriptions = clean_texts(row["text"], f"{where}, text") if row.get("text") is not None else ()
  return Item(
    id=check_id(row.get("id", video + part), f"{where}, id"),
    split=_split_name(row.get("split", "train"), where),
    video=video if storage.is_remote(video) else os.fspath(folder / video),
    descriptions=(" ".join(descriptions),) if joined and descriptions else descriptions,
    subtitle=clean_text(row.get("subtitle") or "", f"{where}, subtitle"),
    caption=clean_text(row.get("caption") or "", f"{where}, caption"),
    start=start,
    end=end,
  )


def _seconds(row: dict[str, Any], name: str, where: str) -> float | None:
  value = row.get(name)
  if value is None:
    return None
  if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _LONGEST:
    raise UserError(f"{where}: {name} must be seconds from 0 to {_LONGEST:g}, got {str(value)[:40]}")
  return float(value)


def _split_name(name: Any, where: str) -> str:
  if not isinstance(name, str) or not name.isidentifier() or name == "all" or len(name) > 50:
    raise UserError(f"{where}: a split is named by letters, digits and _ (not 'all'), got {name!r}")
  return name
