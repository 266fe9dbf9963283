"""video_manifest: the user's own videos and texts, listed in a manifest of JSON lines."""

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
from data.engine.builder import CorpusBuilder
from data.engine.corpus_config import CorpusConfig
from data.engine.items import Item, check_id, clean_text, clean_texts
from data.engine.json_files import read_json_lines

_MAX_SECONDS = 1e8
_REMOTE_SCHEMES = ("gs://", "s3://")
_FIELDS = ("video", "text", "caption", "subtitle", "start", "end", "split", "id")


@dataclasses.dataclass(eq=False, kw_only=True)
class VideoManifestConfig(CorpusConfig):
  """Configuration of a manifest. Its splits are those in the manifest.

  Attributes:
    texts: "several": training draws one text of a list per visit; "paragraph": a list is joined into one text.
    min_frames: Of a video; an image is always a clip of one frame.
  """

  texts: str = "several"
  min_frames: int = 1
  splits: tuple[str, ...] = ()


class Builder(CorpusBuilder):
  """Lines `{"video": PATH, "text": TEXT or [TEXT, ...], "caption"?, "subtitle"?, "start"?, "end"?, "split"?, "id"?}`.

  - video: a file, an image or a folder of frames, relative to the manifest.
  - text: descriptions of the clip. caption: text of the middle frame. subtitle: transcribed speech.
  - start, end: seconds.
  - split: by default "train".
  - id: unique within the split; by default the path, with start and end if set.
  """

  code_path = pathlib.Path(__file__)
  VERSION = tfds.core.Version("1.0.0")
  BUILDER_CONFIGS = [  # noqa: RUF012 - as in TFDS
    VideoManifestConfig(name="default", description="Three frames a second, as HD-VILA's.", fps=3),
    VideoManifestConfig(name="all_frames", description="Every frame.", short_side=0),
  ]

  @property
  def raw_dir(self) -> epath.Path:
    """The manifest."""
    if not self.options.raw_dir:
      raise UserError("no manifest; set --raw_dir=FILE to a file of JSON lines")
    return storage.absolute(self.options.raw_dir)

  def items(self, raw_dir: epath.Path) -> Iterator[Item]:
    """Yields the clips. Raises UserError for an invalid line."""
    config = self.builder_config
    assert isinstance(config, VideoManifestConfig)
    if config.texts not in ("several", "paragraph"):
      raise UserError(f"texts={config.texts!r} is unknown; use several or paragraph")
    for number, row in read_json_lines(os.fspath(raw_dir)):
      yield _item(row, f"{raw_dir}, line {number}", raw_dir.parent, join_texts=config.texts == "paragraph")


def _item(row: dict[str, Any], where: str, folder: epath.Path, *, join_texts: bool) -> Item:
  unknown = sorted(row.keys() - set(_FIELDS))
  if unknown:
    raise UserError(f"{where}: unknown fields {unknown}; use {', '.join(_FIELDS)}")
  video = check_id(row.get("video"), f"{where}, video")
  if "://" in video and not video.startswith(_REMOTE_SCHEMES):
    raise UserError(f"{where}: {video[:80]!r} is not readable; download it, or use {' or '.join(_REMOTE_SCHEMES)}")
  start, end = (_seconds(row, name, where) for name in ("start", "end"))
  if end is not None and end <= (start or 0):
    raise UserError(f"{where}: end={end:g} must be greater than start={start or 0:g}")
  span = "" if start is None and end is None else f"@{start or 0:g}-{'' if end is None else f'{end:g}'}"
  descriptions = clean_texts(row["text"], f"{where}, text") if row.get("text") is not None else ()
  return Item(
    id=check_id(row.get("id", video + span), f"{where}, id"),
    split=_split_name(row.get("split", "train"), where),
    video=video if storage.is_remote(video) else os.fspath(folder / video),
    descriptions=(" ".join(descriptions),) if join_texts and descriptions else descriptions,
    subtitle=clean_text(row.get("subtitle") or "", f"{where}, subtitle"),
    caption=clean_text(row.get("caption") or "", f"{where}, caption"),
    start=start,
    end=end,
  )


def _seconds(row: dict[str, Any], name: str, where: str) -> float | None:
  value = row.get(name)
  if value is None:
    return None
  if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _MAX_SECONDS:
    raise UserError(f"{where}: {name} must be seconds from 0 to {_MAX_SECONDS:g}, got {str(value)[:40]}")
  return float(value)


def _split_name(name: Any, where: str) -> str:
  if not isinstance(name, str) or not name.isidentifier() or name == "all" or len(name) > 50:
    raise UserError(f"{where}: invalid split {name!r}; use at most 50 letters, digits and _, and not 'all'")
  return name
