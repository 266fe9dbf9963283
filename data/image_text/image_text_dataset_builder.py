"""image_text: images with one text each, such as CC3M and CC12M. Each image is a clip of one frame."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import posixpath
import tarfile
from collections.abc import Iterator
from typing import Any, BinaryIO

import tensorflow_datasets as tfds
from etils import epath

from clipvip_jax.data.engine import bad_lines, storage
from clipvip_jax.data.engine.builder import CorpusBuilder
from clipvip_jax.data.engine.corpus_config import CorpusConfig
from clipvip_jax.data.engine.items import Item, check_id, clean_text, safe_join
from clipvip_jax.data.engine.json_files import excerpt, parse_json
from clipvip_jax.data.engine.text_files import read_lines
from clipvip_jax.input_pipeline.image_files import IMAGE_SUFFIXES
from clipvip_jax.utils.errors import UserError

_TARS = ("*.tar", "*/*.tar", "*/*/*.tar")
_BLOCK = 2**20  # bytes
_MAX_TEXT_BYTES = 2**24
_TEXT_SUFFIXES = (".txt", ".json")
_Span = tuple[int, int]  # offset and size of a file within a tar file
_CAPTION_COLUMNS, _PATH_COLUMNS = ("caption", "text"), ("path", "image", "file")


@dataclasses.dataclass(eq=False, kw_only=True)
class ImageTextConfig(CorpusConfig):
  """Configuration of a corpus of images.

  Attributes:
    table: Name of the table below the raw files; if it does not exist, tar files are read.
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
    tars = sorted(path for pattern in _TARS for path in storage.glob(raw_dir, pattern))
    if not tars:
      raise UserError(f"{raw_dir}: no images; put a table {config.table} or tar files ({', '.join(_TARS)}) here")
    for path in tars:
      yield from _tar_items(path, os.fspath(path.relative_to(raw_dir)))


def _tar_items(path: epath.Path, name: str) -> Iterator[Item]:
  """Yields the samples of a tar file in order. The files of a sample are adjacent."""
  key, group = "", dict[str, _Span]()
  try:
    with path.open("rb") as file:
      for member in _members(file, path):
        member_key = _first_dot_key(member.name)
        if member_key != key:
          yield from _group_items(file, path, name, key, group)
          key, group = member_key, {}
        if member.name in group:
          raise UserError(f"{path}, {member.name!r}: two files of this name; keep one of them")
        if member.size > 0 and member.name.lower().endswith((*IMAGE_SUFFIXES, *_TEXT_SUFFIXES)):
          group[member.name] = member.offset_data, member.size
      yield from _group_items(file, path, name, key, group)
  except (tarfile.TarError, EOFError) as error:
    raise UserError(f"{path}: the tar file is truncated or corrupt ({error}); copy it again") from error
  except OSError as error:
    raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def _first_dot_key(member: str) -> str:
  """Returns a member's name up to the first dot of its last component, by which WebDataset groups members."""
  folder, name = posixpath.split(member)
  return posixpath.join(folder, name.split(".")[0])


def _group_items(file: BinaryIO, path: epath.Path, name: str, key: str, group: dict[str, _Span]) -> Iterator[Item]:
  """Yields the samples among members with the same first-dot key.

  KEY.jpg, KEY.seg.png and KEY.txt are one sample: the second is another field of it. KEY.1.jpg and KEY.1.txt, KEY.2.jpg
  and KEY.2.txt are two, since each has an image and a text.
  """
  samples: dict[str, dict[str, _Span]] = {}  # {name without the last suffix: {suffix: span}}
  for member, span in group.items():
    base, suffix = posixpath.splitext(member)
    if samples.setdefault(base, {}).setdefault(suffix.lower(), span) != span:
      raise UserError(f"{path}, {member!r}: another file differs only in upper and lower case; keep one of them")
  for base, members in samples.items():
    has_both = any(s in members for s in IMAGE_SUFFIXES) and any(s in members for s in _TEXT_SUFFIXES)
    if base == key or key not in samples or has_both:
      item = bad_lines.attempt(_tar_item, file, path, name, base, members)
      if item is not None:
        yield item


def _members(file: BinaryIO, path: epath.Path) -> Iterator[tarfile.TarInfo]:
  """Yields the regular files of a tar file. Raises UserError if its end-of-archive marker is missing."""
  with tarfile.open(fileobj=file, mode="r:") as tar:
    while (member := tar.next()) is not None:
      tar.members.clear()  # type: ignore[attr-defined]  # tarfile keeps all of them in memory
      if member.isreg() and not member.issparse() and not _is_resource_fork(member.name):
        yield member
    file.seek(tar.offset)  # tarfile also stops silently at a corrupt header
    if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
      raise UserError(f"{path}: the tar file is truncated or corrupt at byte {tar.offset}; copy or create it again")
    while block := file.read(_BLOCK):
      if block.strip(b"\0"):
        raise UserError(f"{path}: data after the end of the tar file; do not concatenate tar files")


def _is_resource_fork(member: str) -> bool:
  """Returns whether macOS stored attributes of another file under this name: ._NAME beside NAME, or in __MACOSX."""
  *folders, name = member.split("/")
  return name.startswith("._") or "__MACOSX" in folders


def _tar_item(file: BinaryIO, path: epath.Path, name: str, key: str, members: dict[str, _Span]) -> Item:
  where = f"{path}, {key!r}"
  image = next((members[suffix] for suffix in IMAGE_SUFFIXES if suffix in members), None)
  text: Any = ""
  if ".txt" in members:
    text = _read_text(file, *members[".txt"], where)
  elif ".json" in members:
    text = _parse_caption(_read_text(file, *members[".json"], where), where)
  return Item(
    id=check_id(f"{name.removesuffix('.tar')}/{key}", where),
    split="train",
    video=os.fspath(path) if image else f"{path}#{key}",  # does not exist, and counts as missing
    caption=clean_text(text, where),
    offset=image[0] if image else 0,
    size=image[1] if image else 0,
  )


def _read_text(file: BinaryIO, offset: int, size: int, where: str) -> str:
  if size > _MAX_TEXT_BYTES:
    raise UserError(f"{where}: the text has {size} bytes; use at most {_MAX_TEXT_BYTES}")
  file.seek(offset)
  try:
    return str(file.read(size), "utf-8-sig")
  except UnicodeDecodeError as error:
    raise UserError(f"{where}: the text is not UTF-8 ({error}); re-encode it") from error


def _parse_caption(data: str, where: str) -> Any:
  try:
    fields = parse_json(data)
  except (ValueError, RecursionError) as error:
    raise UserError(f"{where}: invalid JSON ({error})") from error
  if not isinstance(fields, dict):
    raise UserError(f'{where}: expected {{"caption": TEXT}}, got {excerpt(fields)}')
  return fields.get("caption") or ""


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
