"""Filters of a search: conditions on the path of a video, and on fields of a metadata file.

A condition is FIELD=VALUE, or with one of != < <= > >= in place of =. The field `path` is the path of the video as the
index names it; others are columns of the metadata. VALUE of = and != may contain the wildcards *, ? and [...]. Two
numbers are compared as numbers, everything else as text. A list fulfils a condition if one of its elements does, and so
does a video with several rows if it does in one of them. A video without a value fulfils none; null, "" and NaN are no
values.
"""

import collections
import csv
import dataclasses
import fnmatch
import functools
import json
import operator
import pathlib
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool

from clipvip_jax.inference.video_index import VideoIndex
from clipvip_jax.utils.compression import START_BYTES, check_encoding
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.local_paths import real_path
from clipvip_jax.utils.log import log, printable

PATH = "path"
_CONDITION = re.compile(r"\s*([^=!<>]+?)\s*(!=|<=|>=|=|<|>)(?![=<>])\s*(.*?)\s*", re.DOTALL)
_ORDERS: dict[str, Callable[[Any, Any], bool]] = {
  "<": operator.lt,
  "<=": operator.le,
  ">": operator.gt,
  ">=": operator.ge,
}
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
        f"--where={text!r} is not a condition; write FIELD=VALUE, such as path=*holiday* or year>=2020, or one of !="
        " < <= > >= in place of ="
      )
    return cls(*match.groups())

  def test(self) -> Callable[[Value], bool]:
    """Returns a function that tells whether a value fulfils the condition."""
    number, pattern = _number(self.value), re.compile(fnmatch.translate(self.value), re.DOTALL)

    def is_fulfilled(value: Value) -> bool:
      text = _text(value)
      other = None if number is None else _number(text)
      if self.compare in _ORDERS:
        return _ORDERS[self.compare](*((text, self.value) if number is None or other is None else (other, number)))
      equal = pattern.match(text) is not None or (number is not None and other == number)
      return equal is (self.compare == "=")

    return lambda value: any(map(is_fulfilled, _elements(value)))


def _elements(value: Value) -> Iterator[Value]:
  """Yields the values in lists of any depth, or the value itself if it is not a list."""
  rest = [value]
  while rest:
    if isinstance(last := rest.pop(), list | tuple):
      rest.extend(last)
    elif _is_value(last):
      yield last


def _is_value(value: Value | None) -> bool:
  return value not in (None, "") and value == value  # NaN, as pandas writes for a missing value, is not equal to itself


def _text(value: Value) -> str:
  return json.dumps(value) if isinstance(value, bool) else str(value)  # true, as in JSON


def _number(text: str) -> float | None:
  try:
    return float(text)
  except ValueError:
    return None


class Metadata:
  """Values of the videos of an index, by field."""

  def __init__(self, index: VideoIndex, path: pathlib.Path | None = None):
    """Reads a metadata file.

    Args:
      index: its videos are those that have values.
      path: JSON lines or CSV with the column `video`, a path relative to the file, and any others; None: no file.

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

  def _read(self, path: pathlib.Path) -> None:
    names = {real_path(name, follow=False): name for name in dict.fromkeys(self._paths)}
    count, unknown, ignored = 0, list[str](), False
    rows_of = collections.Counter[str]()
    for where, row in _read_rows(path):
      video = row.pop(_VIDEO, None)
      if not isinstance(video, str) or not video or "\0" in video:
        raise UserError(f"{where}: no {_VIDEO!r}; each row of --metadata must name the path of a video")
      count += 1
      name = names.get(real_path(path.parent / video, follow=False))
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
    if condition.field not in self._columns:
      known = [PATH, *sorted(self._columns)]
      more = f" and {len(known) - _MAX_NAMED} more" if len(known) > _MAX_NAMED else ""
      raise UserError(
        f"--where: no video has a field {printable(condition.field)!r}; use {printable(', '.join(known[:_MAX_NAMED]))}"
        f"{more}, or name a file with it by --metadata"
      )
    by_path = {path: is_fulfilled(value) for path, value in self._columns[condition.field].items()}
    return np.fromiter((by_path.get(path, False) for path in self._paths), np.bool_, len(self._paths))


def _read_rows(path: pathlib.Path) -> Iterator[tuple[str, dict[str, Any]]]:
  """Yields (file and line, row) of a CSV or JSON lines file."""
  try:
    with path.open("rb") as binary:
      check_encoding(binary.read(START_BYTES), path)
    with path.open(encoding="utf-8-sig", newline="") as file:
      if path.suffix.lower() == ".csv":
        reader = csv.DictReader(file, strict=True)
        for row in reader:
          if None in row or None in row.values():
            raise UserError(
              f"{path}, line {reader.line_num}: another number of columns than the header has; correct it"
            )
          yield f"{path}, line {reader.line_num}", row
      else:
        for number, line in enumerate(file, 1):
          if line.strip():
            yield f"{path}, line {number}", _parse_line(line, f"{path}, line {number}")
  except (OSError, UnicodeDecodeError, csv.Error) as error:
    reason = getattr(error, "strerror", None) or error
    raise UserError(f"--metadata={path} cannot be read ({reason}); name a .csv or .jsonl file") from error


def _parse_line(line: str, where: str) -> dict[str, Any]:
  try:
    row = json.loads(line)
  except (ValueError, RecursionError):
    row = None
  if not isinstance(row, dict):
    raise UserError(f"{where}: not a JSON object; --metadata must be a .csv, or have one object per line")
  return row
