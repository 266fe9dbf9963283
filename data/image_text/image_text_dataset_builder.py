"""image_text: images with one text each, such as CC3M and CC12M. Each image is a clip of one frame."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import posixpath
from collections.abc import Iterator
from typing import Any

import tensorflow_datasets as tfds
from etils import epath

from clipvip_jax.data.engine import bad_lines, build_files, tar_files
from clipvip_jax.data.engine.builder import CorpusBuilder
from clipvip_jax.data.engine.corpus_config import CorpusConfig
from clipvip_jax.data.engine.items import Item, check_id, clean_text, safe_join
from clipvip_jax.data.engine.tar_files import Group, Span
from clipvip_jax.data.engine.text_files import read_lines
from clipvip_jax.input_pipeline.image_files import IMAGE_SUFFIXES
from clipvip_jax.utils.errors import UserError

_TEXT_SUFFIXES = (".txt", ".json")
_CAPTION_COLUMNS, _PATH_COLUMNS = ("caption", "text"), ("path", "image", "file")


@dataclasses.dataclass(eq=False, kw_only=True)
class ImageTextConfig(CorpusConfig):
  """Configuration of a corpus of images.

  Attributes:
    table: name of the table below the raw files; if it does not exist, tar files are read.
  """

  min_frames: int = 1
  table: str = "images.tsv"


class Builder(CorpusBuilder):
  """Images of a table or of tar files; training split only. Texts are captions.

  Table: lines CAPTION<TAB>PATH, PATH relative to the table; or a header line that names the columns `caption` and
  `path` among others. Ids are paths. Lists of URLs, such as those of CC3M and CC12M, must be downloaded first.
  Tar files: up to two folders below the raw files, in WebDataset layout: KEY.jpg, or another image format, next to
  KEY.txt or KEY.json, {"caption": TEXT}; other fields, as KEY.seg.png, and the ._NAME of macOS are ignored. Images are
  read without unpacking. Ids are TAR/KEY.
  """

  code_path = pathlib.Path(__file__)
  VERSION = tfds.core.Version("1.0.0")
  BUILDER_CONFIGS = [  # noqa: RUF012 - as in TFDS
    ImageTextConfig(name="default", description="Shorter side at most 256 pixels.")
  ]

  def items(self, raw_dir: epath.Path) -> Iterator[Item]:
    """Yields the images. Raises UserError for a truncated or corrupt tar file, or an invalid line."""
    config = self.builder_config
    assert isinstance(config, ImageTextConfig)
    if (table := raw_dir / config.table).exists():
      yield from _table_items(table)
      return
    tars = sorted(path for pattern in tar_files.PATTERNS for path in build_files.glob(raw_dir, pattern))
    if not tars:
      raise UserError(
        f"{raw_dir}: no images; put a table {config.table} or tar files ({', '.join(tar_files.PATTERNS)}) here"
      )
    for path in tars:
      yield from _tar_items(path, os.fspath(path.relative_to(raw_dir)))


def _tar_items(path: epath.Path, name: str) -> Iterator[Item]:
  """Yields the samples of a tar file in order."""
  for group in tar_files.iterate_groups(path, (*IMAGE_SUFFIXES, *_TEXT_SUFFIXES)):
    yield from _group_items(group, path, name)


def _group_items(group: Group, path: epath.Path, name: str) -> Iterator[Item]:
  """Yields the samples among members with the same first-dot key.

  KEY.jpg, KEY.seg.png and KEY.txt are one sample: the second is another field of it. KEY.1.jpg and KEY.1.txt, KEY.2.jpg
  and KEY.2.txt are two, since each has an image and a text.
  """
  samples: dict[str, dict[str, Span]] = {}  # {name without the last suffix: {suffix: span}}
  for member, span in group.members.items():
    base, suffix = posixpath.splitext(member)
    if samples.setdefault(base, {}).setdefault(suffix.lower(), span) != span:
      raise UserError(f"{path}, {member!r}: another file differs only in upper and lower case; keep one of them")
  for base, members in samples.items():
    has_both = any(s in members for s in IMAGE_SUFFIXES) and any(s in members for s in _TEXT_SUFFIXES)
    if base == group.key or group.key not in samples or has_both:
      item = bad_lines.attempt(_tar_item, group, path, name, base, members)
      if item is not None:
        yield item


def _tar_item(group: Group, path: epath.Path, name: str, key: str, members: dict[str, Span]) -> Item:
  where = f"{path}, {key!r}"
  image = next((members[suffix] for suffix in IMAGE_SUFFIXES if suffix in members), None)
  text: Any = ""
  if ".txt" in members:
    text = tar_files.read_text(group.file, members[".txt"], where)
  elif ".json" in members:
    text = tar_files.read_object(group.file, members[".json"], where).get("caption") or ""
  return Item(
    id=check_id(f"{name.removesuffix('.tar')}/{key}", where),
    split="train",
    video=os.fspath(path) if image else f"{path}#{key}",  # does not exist, and counts as missing
    caption=clean_text(text, where),
    offset=image[0] if image else 0,
    size=image[1] if image else 0,
    missing_video="" if image else group.describe_unused(f"{key}."),
  )


def _table_items(path: epath.Path) -> Iterator[Item]:
  columns, width = (0, 1), 2
  for number, line in enumerate(read_lines(path, newline="\n"), 1):
    row, where = line.rstrip("\r\n").split("\t"), f"{path}, line {number}"
    if number == 1 and (header := _parse_header(row)):
      columns, width = header, len(row)
    elif line.strip():
      item = bad_lines.attempt(_table_item, row, width, columns, path.parent, where)
      if item is not None:
        yield item


def _table_item(row: list[str], width: int, columns: tuple[int, int], folder: epath.Path, where: str) -> Item:
  if len(row) != width:
    raise UserError(f"{where}: expected {width} columns separated by tabs, got {len(row)}")
  caption, name = (row[column] for column in columns)
  if "://" in name or not name.lower().endswith(IMAGE_SUFFIXES):
    raise UserError(f"{where}: expected a path of an image ({', '.join(IMAGE_SUFFIXES)}), got {name[:80]!r}")
  video, caption = safe_join(folder, name, where), clean_text(caption, f"{where}, caption")
  return Item(id=name, split="train", video=video, caption=caption)


def _parse_header(row: list[str]) -> tuple[int, int] | None:
  """Returns the columns of caption and path if the row names them."""
  names = [name.strip().lower() for name in row]
  caption, path = (
    next((names.index(name) for name in allowed if name in names), None)
    for allowed in (_CAPTION_COLUMNS, _PATH_COLUMNS)
  )
  return None if caption is None or path is None else (caption, path)
