"""image_text: images with one text each, as CC3M and CC12M; every image is a clip of one frame."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import tarfile
from collections.abc import Iterator
from typing import Any, BinaryIO

import tensorflow_datasets as tfds
from etils import epath

from clipvip_jax.input_pipeline.image_files import IMAGE_SUFFIXES
from clipvip_jax.utils.errors import UserError
from data.engine import storage
from data.engine.builder import CorpusBuilder, CorpusConfig
from data.engine.items import Item, check_id, clean_text, safe_join

_TARS = ("*.tar", "*/*.tar", "*/*/*.tar")
_BLOCK = 2**20  # bytes
_LONGEST = 2**24  # bytes of a text within a tar
_CAPTION, _PATH = ("caption", "text"), ("path", "image", "file")  # how a table's columns may be named


@dataclasses.dataclass(eq=False, kw_only=True)
class ImageTextConfig(CorpusConfig):
  """table: name of the table below the source; where there is none, tar files are read."""

  min_frames: int = 1
  table: str = "images.tsv"


class Builder(CorpusBuilder):
  """A table of images, or else tar files up to two folders below the source; training split only.

  Texts are captions of the image. The table has lines CAPTION<TAB>PATH of images below the source, called by their
  paths, or a first line that names these columns, `caption` and `path`, among others. Lists of addresses in the web,
  as those of CC3M and CC12M, are none: the images must be there. A tar holds KEY.jpg (or another image) with KEY.txt
  or KEY.json, {"caption": TEXT}, beside it, as WebDataset has it. Images are read where they stand in it; they are
  called TAR/KEY.
  """

  code_path = pathlib.Path(__file__)
  VERSION = tfds.core.Version("1.0.0")
  BUILDER_CONFIGS = [  # noqa: RUF012 - TFDS' own way
    ImageTextConfig(name="default", description="Shorter side at most 256 pixels.")
  ]

  def items(self, source: epath.Path) -> Iterator[Item]:
    """Raises UserError for a tar that is cut or broken, or a broken line."""
    config = self.builder_config
    assert isinstance(config, ImageTextConfig)
    if (table := source / config.table).exists():
      yield from _table_items(table)
      return
    tars = sorted(path for pattern in _TARS for path in storage.matching(source, pattern))
    if not tars:
      raise UserError(f"{source}: neither a table {config.table} nor tar files ({', '.join(_TARS)})")
    for path in tars:
      yield from _tar_items(path, os.fspath(path.relative_to(source)))


def _tar_items(path: epath.Path, name: str) -> Iterator[Item]:
  """The keys of a tar in its order; what one key has stands together."""
  key, parts = "", dict[str, tuple[int, int]]()
  try:
    with path.open("rb") as file:
      for member in _members(file, path):
        base, suffix = os.path.splitext(member.name)  # noqa: PTH122  # a name within the tar, no path
        if base != key and parts:
          yield _tar_item(file, path, name, key, parts)
          parts = {}
        key = base
        if suffix.lower() in (*IMAGE_SUFFIXES, ".txt", ".json") and member.size > 0:
          parts[suffix.lower()] = member.offset_data, member.size
      if parts:
        yield _tar_item(file, path, name, key, parts)
  except (tarfile.TarError, EOFError) as error:
    raise UserError(f"{path}: no whole tar file ({error})") from error
  except OSError as error:
    raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def _members(file: BinaryIO, path: epath.Path) -> Iterator[tarfile.TarInfo]:
  """The files of a tar. Raises UserError where its end is not marked, as it is in one that was written to the end."""
  with tarfile.open(fileobj=file, mode="r:") as tar:
    while (member := tar.next()) is not None:
      tar.members.clear()  # type: ignore[attr-defined]  # or it would keep them all
      if member.isreg() and not member.issparse():
        yield member
    file.seek(tar.offset)  # tarfile ends in peace at a damaged header too
    if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
      raise UserError(f"{path}: the tar is cut or damaged at byte {tar.offset}; make or copy it again")
    while block := file.read(_BLOCK):
      if block.strip(b"\0"):
        raise UserError(
          f"{path}: there is more behind the tar's end; were several put behind each other? Keep them apart"
        )


def _tar_item(file: BinaryIO, path: epath.Path, name: str, key: str, parts: dict[str, tuple[int, int]]) -> Item:
  where = f"{path}, {key!r}"
  image = next((parts[suffix] for suffix in IMAGE_SUFFIXES if suffix in parts), None)
  text: Any = ""
  if ".txt" in parts:
    text = _text(file, *parts[".txt"], where)
  elif ".json" in parts:
    text = _caption(_text(file, *parts[".json"], where), where)
  return Item(
    id=check_id(f"{name.removesuffix('.tar')}/{key}", where),
    split="train",
    video=os.fspath(path) if image else f"{path}#{key}",  # no file has this name: it counts as missing
    caption=clean_text(text, where),
    offset=image[0] if image else 0,
    size=image[1] if image else 0,
  )


def _text(file: BinaryIO, offset: int, size: int, where: str) -> str:
  if size > _LONGEST:
    raise UserError(f"{where}: a text of {size} bytes; at most {_LONGEST} are allowed")
  file.seek(offset)
  try:
    return str(file.read(size), "utf-8-sig")
  except UnicodeDecodeError as error:
    raise UserError(f"{where}: the text is not UTF-8 ({error})") from error


def _caption(data: str, where: str) -> Any:
  try:
    fields = json.loads(data)
  except (ValueError, RecursionError) as error:
    raise UserError(f"{where}: no JSON ({error})") from error
  if not isinstance(fields, dict):
    raise UserError(f'{where}: expected {{"caption": TEXT}}, got {data[:40]!r}')
  return fields.get("caption") or ""


def _table_items(path: epath.Path) -> Iterator[Item]:
  columns, width = (0, 1), 2
  for number, row in _rows(path):
    where = f"{path}, line {number}"
    if number == 1 and (named := _columns(row)):
      columns, width = named, len(row)
      continue
    if len(row) != width:
      raise UserError(f"{where}: {width} columns with a tab between them are expected, got {len(row)}")
    caption, name = (row[column] for column in columns)
    if "://" in name or not name.lower().endswith(IMAGE_SUFFIXES):
      raise UserError(f"{where}: {name[:80]!r} is no path of an image ({', '.join(IMAGE_SUFFIXES)})")
    yield Item(
      id=name,
      split="train",
      video=safe_join(path.parent, name, where),
      caption=clean_text(caption, f"{where}, caption"),
    )


def _rows(path: epath.Path) -> Iterator[tuple[int, list[str]]]:
  """(number of the line, what stands between its tabs); empty lines are passed over."""
  try:
    with path.open("rb") as file:
      for number, line in enumerate(file, 1):
        if line.strip():
          yield number, str(line, "utf-8-sig").rstrip("\r\n").split("\t")
  except UnicodeDecodeError as error:
    raise UserError(f"{path}, line {number}: no UTF-8 ({error})") from error
  except OSError as error:
    raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def _columns(row: list[str]) -> tuple[int, int] | None:
  """Where caption and path stand, if this line names columns."""
  names = [name.strip().lower() for name in row]
  found = [next((names.index(name) for name in allowed if name in names), None) for allowed in (_CAPTION, _PATH)]
  return (found[0], found[1]) if found[0] is not None and found[1] is not None else None
