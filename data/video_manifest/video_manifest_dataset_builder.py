"""video_manifest: the user's own videos and texts, listed in a manifest of JSON lines."""

from __future__ import annotations

import array
import dataclasses
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import tensorflow_datasets as tfds
from etils import epath

from clipvip_jax.data.engine import bad_lines
from clipvip_jax.data.engine.builder import CorpusBuilder
from clipvip_jax.data.engine.corpus_config import CorpusConfig
from clipvip_jax.data.engine.items import Item, check_id, check_times, clean_text, clean_texts
from clipvip_jax.data.engine.json_files import excerpt, read_json_lines
from clipvip_jax.data.engine.text_hash import find_repeated, hash_text
from clipvip_jax.utils import storage
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.local_paths import real_path
from clipvip_jax.utils.log import log

_REMOTE_SCHEMES = ("gs://", "s3://")
_FIELDS = ("video", "text", "caption", "subtitle", "start", "end", "split", "id")


@dataclasses.dataclass(eq=False, kw_only=True)
class VideoManifestConfig(CorpusConfig):
  """Configuration of a manifest. Its splits are those in the manifest.

  Attributes:
    texts: "several": training draws one text of a list per visit; "paragraph": a list is joined into one text.
    min_frames: of a video; an image is always a clip of one frame.
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

  Lines without an id, or with the same, that have the same file (under any spelling of its path), times and split are
  one clip with several texts.
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
    for item in read_items(raw_dir):
      if config.texts == "paragraph" and item.descriptions:
        item = dataclasses.replace(item, descriptions=(" ".join(item.descriptions),))
      yield item


def read_items(manifest: epath.Path) -> Iterator[Item]:
  """Yields a clip for all lines with the same file, times, split and `id`, with all of their texts.

  The manifest is read twice: memory holds 8 bytes per line, and the clips with several lines.

  Raises:
    UserError: a line is invalid.
  """
  hashes = array.array("Q", (_clip_hash(*line) for line in _items(manifest)))
  bad_lines.raise_collected()
  counts = find_repeated(hashes)
  if not counts:
    yield from (item for item, _, _ in _items(manifest))
    return
  log.info(
    '%s: %d lines repeat the clip of an earlier line; it keeps all texts (give each line an "id" for clips of its own)',
    *(manifest, sum(counts.values()) - len(counts)),
  )
  merged: dict[int, Item] = {}
  for item, name, where in _items(manifest):
    if (key := _clip_hash(item, name)) in counts:
      both = bad_lines.attempt(_merge, merged[key], item, where) if key in merged else item
      merged[key] = both or merged[key]
  for item, name, _ in _items(manifest):
    if (key := _clip_hash(item, name)) not in counts:
      yield item
    elif key in merged:
      yield merged.pop(key)


def _items(manifest: epath.Path) -> Iterator[tuple[Item, Any, str]]:
  """Yields (item, the line's own id or None, location) of each line."""
  path, folder = os.fspath(manifest), manifest.parent
  for number, row in read_json_lines(path):
    where = f"{path}, line {number}"
    if (item := bad_lines.attempt(_item, row, where, folder)) is not None:
      yield item, row.get("id"), where


def _clip_hash(item: Item, name: Any, _: str = "") -> int:
  """Returns a hash of what makes a line a clip of its own: its file, times, split and own id."""
  video = item.video if storage.is_remote(item.video) else real_path(item.video)
  return hash_text(repr((video, item.start or 0, item.end, item.split, name)))


def _merge(item: Item, other: Item, where: str) -> Item:
  texts = {name: (getattr(item, name), getattr(other, name)) for name in ("subtitle", "caption")}
  for name, (first, second) in texts.items():
    if first and second and first != second:
      raise UserError(
        f'{where}: another {name} than on an earlier line of the same clip, which has only one; give each line an "id",'
        " or remove one of them"
      )
  descriptions = tuple(dict.fromkeys((*item.descriptions, *other.descriptions)))
  return dataclasses.replace(
    item, descriptions=descriptions, **{name: first or second for name, (first, second) in texts.items()}
  )


def _item(row: dict[str, Any], where: str, folder: epath.Path) -> Item:
  unknown = sorted(row.keys() - set(_FIELDS))
  if unknown:
    raise UserError(f"{where}: unknown fields {', '.join(map(excerpt, unknown))}; use {', '.join(_FIELDS)}")
  row = {name: value for name, value in row.items() if value is not None}  # null: an empty cell of a table
  video = check_id(row.get("video"), f"{where}, video")
  if "://" in video and not video.startswith(_REMOTE_SCHEMES):
    raise UserError(f"{where}: {video[:80]!r} is not readable; download it, or use {' or '.join(_REMOTE_SCHEMES)}")
  if storage.is_remote(video):
    storage.check_path("/".join(video.split("/")[:3]), f"{where}, video")  # the bucket: names of videos are free
  start, end = check_times(row.get("start"), row.get("end"), where)
  span = "" if start is None and end is None else f"@{start or 0:g}-{'' if end is None else f'{end:g}'}"
  descriptions = clean_texts(row.get("text", ()), f"{where}, text")
  return Item(
    id=check_id(row.get("id", video + span), f"{where}, id"),
    split=_split_name(row.get("split", "train"), where),
    video=video if storage.is_remote(video) else os.fspath(folder / video),
    descriptions=descriptions,
    subtitle=clean_text(row.get("subtitle") or "", f"{where}, subtitle"),
    caption=clean_text(row.get("caption") or "", f"{where}, caption"),
    start=start,
    end=end,
  )


def _split_name(name: Any, where: str) -> str:
  if not isinstance(name, str) or not name.isidentifier() or name == "all" or len(name) > 50:
    raise UserError(f"{where}: invalid split {excerpt(name)}; use at most 50 letters, digits and _, and not 'all'")
  return name
