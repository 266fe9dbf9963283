"""Items: the annotations of one clip, before its video is decoded."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import os
import posixpath
import re
from collections.abc import Iterator
from typing import Any, TypeVar

from clipvip_jax.data.engine.json_files import excerpt
from clipvip_jax.utils.errors import UserError

_T = TypeVar("_T")
# Control characters (terminals obey them, many programs stop at NUL) and lone surrogates, which UTF-8 cannot encode.
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]+")
MAX_SECONDS = 1e8  # of a time within a video
# Items are serialised under these names. Digests of annotations, which corpora store, depend on them.
_JSON_NAMES = {"missing_texts": "lacking"}


@dataclasses.dataclass(frozen=True)
class Item:
  """One clip of a split.

  Attributes:
    id: unique within the split.
    split: name of the split.
    video: path, or gs:// or s3:// address, of a video file, an image, a folder of frames, or a tar file.
    descriptions: texts of the entire clip.
    subtitle: transcribed speech; "" if none.
    caption: text of the middle frame; "" if none.
    start: start of the clip within the video in seconds; None: start of the video.
    end: end of the clip within the video in seconds; None: end of the video.
    offset: offset in bytes of an image or video within a tar file.
    size: size in bytes of an image or video within a tar file; 0: `video` is not a tar file.
    suffix: suffix of a video within a tar file, such as .mp4; "" for an image.
    error: reason for which its annotations are corrupt, so that it is skipped; "" if they are valid.
    extra: values of the fields that a corpus adds to the record.
    missing_video: reason for which it has no video, if files in its place are not read; "" otherwise.
    missing_texts: "subtitle" and "caption" if the annotations normally have them but lack them for this clip; counted.
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
  suffix: str = ""
  error: str = ""
  missing_video: str = ""
  extra: dict[str, str] = dataclasses.field(default_factory=dict)
  missing_texts: tuple[str, ...] = ()

  def to_json(self) -> str:
    """Serialises the item to one line of JSON without empty fields. `end=0` is kept: it means an empty clip."""
    values = {_JSON_NAMES.get(field.name, field.name): getattr(self, field.name) for field in dataclasses.fields(self)}
    row = {key: value for key, value in values.items() if value not in (None, "", (), 0, {}) or key in ("id", "video")}
    if self.end is not None:
      row["end"] = self.end
    return json.dumps(row, ensure_ascii=False, separators=(",", ":"))

  @classmethod
  def from_json(cls, line: str) -> Item:
    """Parses a line written by `to_json`."""
    names = {key: name for name, key in _JSON_NAMES.items()}
    row: dict[str, Any] = {names.get(key, key): value for key, value in json.loads(line).items()}
    fields: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in row.items()}
    return cls(**fields)


def peek(items: Iterator[_T], count: int) -> tuple[list[_T], Iterator[_T]]:
  """Returns the first `count` items, and an iterator over all of them."""
  first = list(itertools.islice(items, count))
  return first, itertools.chain(first, items)


def clean_text(text: Any, where: str) -> str:
  """Replaces control characters by spaces and strips the ends.

  Args:
    text: a string from an annotation file.
    where: its location, for the error message.

  Raises:
    UserError: `text` is not a string.
  """
  if not isinstance(text, str):
    raise UserError(f"{where}: a text must be a string, got {_describe(text)}")
  return _CONTROLS.sub(" ", text).strip()


def clean_texts(texts: Any, where: str) -> tuple[str, ...]:
  """Applies `clean_text` to a text or a list of texts, and drops empty ones.

  Raises:
    UserError: a text is not a string.
  """
  if not isinstance(texts, list | tuple):
    texts = [texts]
  return tuple(text for text in (clean_text(text, where) for text in texts) if text)


def check_id(name: Any, where: str) -> str:
  """Returns `name` unchanged.

  Raises:
    UserError: `name` is not a string, is empty, or contains control characters.
  """
  if not isinstance(name, str) or not name.strip() or _CONTROLS.search(name):
    raise UserError(
      f"{where}: an id or path must be a non-empty string without control characters, got {_describe(name)}"
    )
  return name


def _check_seconds(value: Any, name: str, where: str) -> float:
  """Returns a time in seconds.

  Args:
    value: from a JSON file.
    name: its field, for the error message.
    where: its location, for the error message.

  Raises:
    UserError: it is not a number from 0 to MAX_SECONDS.
  """
  if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_SECONDS:
    hint = "; write a number such as 12.5, without quotation marks" if isinstance(value, str) else ""
    raise UserError(
      f"{where}: {name} must be seconds from 0 to {MAX_SECONDS:g}, got {'the string ' if hint else ''}"
      f"{excerpt(value)}{hint}"
    )
  return float(value)


def check_times(start: Any, end: Any, where: str) -> tuple[float | None, float | None]:
  """Returns start and end of a clip within its video in seconds; None: start and end of the video.

  Raises:
    UserError: one is not a number of seconds, or `end` is not after `start`.
  """
  start, end = (None if x is None else _check_seconds(x, name, where) for name, x in (("start", start), ("end", end)))
  if end is not None and end <= (start or 0):
    raise UserError(f"{where}: end={end:g} must be greater than start={start or 0:g}")
  return start, end


def safe_join(folder: str | os.PathLike[str], name: Any, where: str) -> str:
  """Returns FOLDER/NAME.

  Raises:
    UserError: `name` is not a valid id, or escapes the folder, as `../x` and `/x` do.
  """
  name = check_id(name, where)
  if name.startswith("/") or "\\" in name or ".." in posixpath.normpath(name).split("/"):
    raise UserError(f"{where}: {name!r} is outside of {os.fspath(folder)}; use names relative to this folder")
  return posixpath.join(os.fspath(folder), name)


def _describe(value: Any) -> str:
  is_number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < math.inf
  return f'the number {excerpt(value)}; write "{excerpt(value)}"' if is_number else excerpt(value)
