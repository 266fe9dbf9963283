"""Filters of a search: conditions on the path of a video, and on fields of a metadata file.

A condition is FIELD=VALUE, or with one of != < <= > >= in place of =. The field `path` is the path of the video as the
index names it; others are columns of the metadata. VALUE of = and != may contain the wildcards *, ? and [...]. Two
numbers are compared as numbers, everything else as text; = and != compare codes such as 007 and 1e5 as text, and of
texts, only dates (2020-05-01) are less or greater than a number. Texts that are equal after Unicode normalization are
equal. A list fulfils a condition if one of its elements does, and so does a video with several rows if it does in one
of them. A video without a value fulfils none; null, "" and NaN are no values.
"""

import collections
import dataclasses
import decimal
import fnmatch
import functools
import json
import operator
import os
import pathlib
import posixpath
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool

from clipvip_jax.data.engine import tables
from clipvip_jax.data.engine.json_files import read_json_lines
from clipvip_jax.inference.video_index import VideoIndex
from clipvip_jax.utils import storage
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.local_paths import normal_form, real_path
from clipvip_jax.utils.log import list_first, log, printable

PATH = "path"
_CONDITION = re.compile(r"\s*([^=!<>]+?)\s*(!=|<=|>=|=|<|>)(?![=<>])\s*(.*?)\s*", re.DOTALL)
_ORDERS: dict[str, Callable[[Any, Any], bool]] = {
  "<": operator.lt,
  "<=": operator.le,
  ">": operator.gt,
  ">=": operator.ge,
}
_NUMBER = re.compile(r"\s*[+-]?((\d+\.?\d*|\.\d+)(e[+-]?\d{1,3})?|inf)\s*", re.IGNORECASE)
_CODE = re.compile(r"[+-]?0\d|.*\de\d", re.IGNORECASE)  # a number that may be a name: nobody writes quantities so
_DATE = re.compile(r"\d{4}[-/]\d")
_VIDEO = "video"  # the column that names the video
_KEPT_MASKS = 16
_MAX_NAMED = 10  # fields that an error message names

Value = str | float | bool | Sequence[Any]


@dataclasses.dataclass(frozen=True)
class Condition:
  """A condition that videos fulfil or not.

  Attributes:
    field: name.
    compare: "=", "!=", "<", "<=", ">" or ">=".
    value: text, number or pattern.
  """

  field: str
  compare: str
  value: str

  @classmethod
  def parse(cls, text: str) -> "Condition":
    """Parses FIELD=VALUE; raises UserError if it is something else."""
    match = _CONDITION.fullmatch(text)
    if not match:
      raise UserError(
        f"--where={text!r} is not a condition; write FIELD=VALUE, or one of != < <= > >= in place of =, in quotes for"
        " the shell: --where='path=*holiday*' or --where='year>=2020'"
      )
    return cls(*match.groups())

  def test(self) -> Callable[[Value], bool]:
    """Returns a function that tells whether a value fulfils the condition."""
    number, value = _number(self.value), normal_form(self.value)
    pattern = re.compile(fnmatch.translate(value), re.DOTALL)

    def is_fulfilled(text: str) -> bool:
      text = normal_form(text)
      other = None if number is None else _number(text)
      if self.compare in _ORDERS:
        pair = (text, value) if number is None or other is None else (other, number)
        return self.can_order(text) and _ORDERS[self.compare](*pair)
      equal = pattern.match(text) is not None or (
        number is not None and other == number and not (_CODE.match(text) or _CODE.match(value))
      )
      return equal is (self.compare == "=")

    return lambda value: any(map(is_fulfilled, texts_of(value)))

  def can_order(self, text: str) -> bool:
    """Returns False for a number and a text such as "1,234" or "unknown", neither of which is less than the other."""
    pair = (self.value, text)
    return (
      self.compare not in _ORDERS
      or sum(_NUMBER.fullmatch(one) is not None for one in pair) != 1
      or any(map(_DATE.match, pair))
    )


def texts_of(value: Value) -> Iterator[str]:
  """Yields the texts of the values in lists of any depth, or of the value itself if it is not a list."""
  rest = [value]
  while rest:
    if isinstance(last := rest.pop(), list | tuple):
      rest.extend(last)
    elif _is_value(last):
      yield json.dumps(last) if isinstance(last, bool) else str(last)  # true, as in JSON


def _is_value(value: Value | None) -> bool:
  return value not in (None, "") and value == value  # NaN, as pandas writes for a missing value, is not equal to itself


def _number(text: str) -> decimal.Decimal | None:
  """Returns an exact number: ids of 19 digits, which differ in the last one, are equal as floats."""
  return decimal.Decimal(text) if _NUMBER.fullmatch(text) else None


class Metadata:
  """Values of the videos of an index, by field."""

  def __init__(self, index: VideoIndex, path: pathlib.PurePath | None = None):
    """Reads a metadata file.

    Args:
      index: its videos are those that have values.
      path: JSON lines, CSV or TSV, also in a bucket, with the column `video`, a path relative to the file or an
        address, and any others; None: no file.

    Raises:
      UserError: the file cannot be read, or names no video of the index.
    """
    self._index = index
    self._mask = functools.lru_cache(_KEPT_MASKS)(self._fulfils)  # a page searches with the same filter repeatedly
    self._columns: dict[str, dict[str, Value]] = {}  # values by the path of the index
    if path is not None:
      self._read(path)

  @functools.cached_property
  def _paths(self) -> list[str]:
    return [self._index.clip(row).path for row in range(len(self._index.videos))]

  def _read(self, path: pathlib.PurePath) -> None:
    exact = {_address(name): name for name in dict.fromkeys(self._paths)}
    names = {normal_form(address): name for address, name in exact.items()} | exact
    count, unknown, ignored = 0, list[str](), False
    rows_of = collections.Counter[str]()
    for where, row in _read_rows(path):
      video = row.pop(_VIDEO, None)
      if not isinstance(video, str) or not video or "\0" in video:
        raise UserError(f"{where}: no {_VIDEO!r}; each row of --metadata must name the path of a video")
      count += 1
      address = _address(video, os.fspath(path.parent))
      name = names.get(address, names.get(normal_form(address)))
      if name is None:
        unknown.append(video)
        continue
      rows_of[name] += 1
      ignored |= row.pop(PATH, None) is not None
      for field, value in row.items():
        if _is_value(value):
          column = self._columns.setdefault(field, {})
          column[name] = [column[name], value] if name in column else value
    first = f", first {printable(unknown[0])}" if unknown else ""
    if len(unknown) == count:
      raise UserError(
        f"--metadata={path}: none of its {count} rows names a video of the index{first}; correct its paths"
      )
    if unknown:
      log.info("%s: %d of %d rows name no video of the index%s", path, len(unknown), count, first)
    if repeated := sum(number > 1 for number in rows_of.values()):
      log.info("%s: %d videos have several rows; --where selects them by the values of any row", path, repeated)
    if ignored:
      log.warning("%s: the column %s is ignored, as --where=%s is the path of the video; rename it", path, PATH, PATH)

  def select(self, conditions: Sequence[Condition]) -> Bool[np.ndarray, " n"] | None:
    """Returns which rows of the index fulfil all conditions; None if there are none.

    Raises:
      UserError: no video has a field.
    """
    if not conditions:
      return None
    selected = np.ones(len(self._paths), np.bool_)
    for condition in conditions:
      selected &= self._mask(condition)
    return selected

  def _fulfils(self, condition: Condition) -> Bool[np.ndarray, " n"]:
    is_fulfilled = condition.test()
    if condition.field == PATH:
      return np.fromiter(map(is_fulfilled, self._paths), np.bool_, len(self._paths))
    if (column := self._columns.get(condition.field)) is None:
      known = [PATH, *sorted(self._columns)]
      raise UserError(
        f"--where: no video has a field {printable(condition.field)!r}; use"
        f" {printable(list_first(known, _MAX_NAMED))}, or name a file with it by --metadata"
      )
    if odd := [text for value in column.values() for text in texts_of(value) if not condition.can_order(text)]:
      kind = "neither numbers nor dates" if _number(condition.value) is not None else "numbers"
      log.warning(
        "--where: %d values of %s are %s, such as %r, and do not fulfil %s%s; write 1234.5",
        *(len(odd), printable(condition.field), kind, odd[0][:80], condition.compare, printable(condition.value)),
      )
    by_path = {path: is_fulfilled(value) for path, value in column.items()}
    return np.fromiter((by_path.get(path, False) for path in self._paths), np.bool_, len(self._paths))


def _address(video: str, folder: str = "") -> str:
  """Returns the same text for all spellings of a path, which may be relative to `folder`, or of an address."""
  if not storage.is_remote(video) and not video.startswith("/") and storage.is_remote(folder):
    video = f"{folder}/{video}"
  if storage.is_remote(video):
    scheme, _, name = video.partition("://")
    return f"{scheme}://{posixpath.normpath(name)}"
  return real_path(pathlib.Path(folder, video), follow=False)


def _read_rows(path: pathlib.PurePath) -> Iterator[tuple[str, dict[str, Any]]]:
  """Yields (file and line, row) of a table or a file of JSON lines."""
  if path.suffix.lower() in tables.SUFFIXES:
    return tables.read_csv(path, _VIDEO)
  return ((f"{path}, line {number}", row) for number, row in read_json_lines(os.fspath(path)))
