"""What a corpus' annotation files say of one clip, before anything is decoded."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import posixpath
import re
from collections.abc import Iterator
from typing import Any, TypeVar

from clipvip_jax.utils.errors import UserError

_T = TypeVar("_T")
# Never part of language: a terminal obeys them, and many programs stop at NUL. Lone surrogates cannot be stored.
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]+")


@dataclasses.dataclass(frozen=True)
class Item:
  """One clip of a split.

  id: unique in its split. video: path or gs:// address of a video file, an image, a folder of frames, or a tar file.
  descriptions: texts of the whole clip. subtitle, caption: as in `records.record_features`. start, end: seconds,
  where the clip is a part of the video. offset, size: bytes of the image within a tar file; size 0: not in one.
  extra: texts of the fields that a corpus adds. lacking: "subtitle", "caption" that this corpus' clips have and this
  one has not; they are counted.
  """

  id: str
  split: str
  video: str
  descriptions: tuple[str, ...] = ()
  subtitle: str = ""
  caption: str = ""
  start: float | None = None
  end: float | None = None
  offset: int = 0
  size: int = 0
  extra: dict[str, str] = dataclasses.field(default_factory=dict)
  lacking: tuple[str, ...] = ()

  def to_json(self) -> str:
    """One line, without what says nothing. An end at 0 says something: that nothing is left."""
    fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
    said = {key: value for key, value in fields.items() if value not in (None, "", (), 0, {}) or key in ("id", "video")}
    if self.end is not None:
      said["end"] = self.end
    return json.dumps(said, ensure_ascii=False, separators=(",", ":"))

  @classmethod
  def from_json(cls, line: str) -> Item:
    """The reverse of `to_json`."""
    fields = json.loads(line)
    return cls(**{**fields, **{name: tuple(fields.get(name, ())) for name in ("descriptions", "lacking")}})


def peek(items: Iterator[_T], count: int) -> tuple[list[_T], Iterator[_T]]:
  """(the first `count`, all of them again): what a corpus looks like shows before all of it is read."""
  first = list(itertools.islice(items, count))
  return first, itertools.chain(first, items)


def clean_text(text: Any, where: str) -> str:
  """A text as it is stored: control characters are spaces, none at the ends. Raises UserError for no text."""
  if not isinstance(text, str):
    raise UserError(f"{where}: a text is a string, got {type(text).__name__} {str(text)[:40]!r}")
  return _CONTROLS.sub(" ", text).strip()


def clean_texts(texts: Any, where: str) -> tuple[str, ...]:
  """`clean_text` of a text or a list of texts, without those that are empty. Raises UserError for anything else."""
  if not isinstance(texts, list | tuple):
    texts = [texts]
  return tuple(text for text in (clean_text(text, where) for text in texts) if text)


def check_id(name: Any, where: str) -> str:
  """An id as it is. Raises UserError for one that is no name: not a string, empty, or with control characters."""
  if not isinstance(name, str) or not name.strip() or _CONTROLS.search(name):
    raise UserError(f"{where}: an id must be a string of visible characters, got {name!r}")
  return name


def safe_join(folder: str | os.PathLike[str], name: Any, where: str) -> str:
  """FOLDER/NAME. Raises UserError for a name that leads out of the folder, as `../x` or `/x`."""
  name = check_id(name, where)
  if name.startswith("/") or "\\" in name or ".." in posixpath.normpath(name).split("/"):
    raise UserError(f"{where}: {name!r} leads out of {os.fspath(folder)}; names of clips must stay below it")
  return posixpath.join(os.fspath(folder), name)
