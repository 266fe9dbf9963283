"""metrics.jsonl, the history of a run, and curves drawn from it.

`history` is a list of the file's rows in any order. The later of two rows for one step counts, and values that are not
finite numbers are omitted from curves. Corrupt lines stop nothing: they are skipped and named. A file that cannot be
read leaves readers without curves, and stops only a run, which would replace it.
"""

import itertools
import json
import math
import pathlib
import sys
from collections.abc import Iterable, Mapping
from typing import Any, TypeGuard

import numpy as np

from clipvip_jax.utils import atomic_write
from clipvip_jax.utils.log import log

_MAX_NAMED = 5  # corrupt lines that a warning names
UPDATE_RATIO = "update_ratio/"  # prefix of a metric of each module of the model
PEAK_MEMORY = "peak_memory"  # bytes, of the fullest device of process 0 until then; only where its backend measures it
Points = tuple[list[int], list[float]]  # increasing steps, and their values


def train_curve(history: Iterable[Mapping[str, Any]], name: str = "loss") -> Points:
  """Returns a metric of the training steps by step."""
  return _points({row["step"]: row.get(name) for row in history if row["kind"] == "train"})


def train_curves(history: Iterable[Mapping[str, Any]], prefix: str) -> dict[str, Points]:
  """Returns {the rest of the name: values by step} of the metrics of the training steps whose names have a prefix."""
  rows = [row for row in history if row["kind"] == "train"]
  names = sorted({name for row in rows for name in row if name.startswith(prefix)})
  return {name.removeprefix(prefix): train_curve(rows, name) for name in names}


def evaluations_by_split(history: Iterable[Mapping[str, Any]]) -> dict[str, dict[int, Mapping[str, Any]]]:
  """Returns {split: {step: metrics, as in results.json}}."""
  by_split: dict[str, dict[int, Mapping[str, Any]]] = {}
  for row in history:
    if row["kind"] == "eval":
      by_split.setdefault(row["split"], {})[row["step"]] = row["metrics"]
  return by_split


def percent_curve(metrics_by_step: Mapping[int, Mapping[str, Any]], *keys: str) -> Points:
  """Returns one metric of a split by step, in percent. `keys`: its path, as ("plain", "text_to_video", "R@1")."""
  steps, fractions = _points({step: lookup(metrics, keys) for step, metrics in metrics_by_step.items()})
  return steps, [100 * fraction for fraction in fractions]


def lookup(tree: Any, keys: Iterable[str]) -> Any:
  """Looks up a path in nested mappings: {"a": {"b": 1}}, ("a", "b") -> 1; None if it is absent."""
  for key in keys:
    tree = tree.get(key) if isinstance(tree, Mapping) else None
  return tree


def _points(by_step: Mapping[int, Any]) -> Points:
  points = sorted((step, value) for step, value in by_step.items() if is_number(value))
  return [step for step, _ in points], [value for _, value in points]


def is_number(value: object) -> TypeGuard[float]:
  """Returns whether a value is a finite number; a loss may have become NaN."""
  if isinstance(value, int):
    return abs(value) <= sys.float_info.max  # others cannot be formatted
  return isinstance(value, float | np.floating) and math.isfinite(value)


class History:
  """Appends to metrics.jsonl: one row per logged step or evaluation, without times, so equal runs write equal files."""

  def __init__(self, path: pathlib.Path, step: int, *, write: bool = True, evaluated: bool = True):
    """Opens the history of a run that resumes from `step`. Rows of later steps are dropped: they are written again.

    Corrupt lines are moved to a file with the suffix .corrupt.

    Args:
      path: the file, which need not exist.
      step: completed updates.
      write: whether this process writes the file.
      evaluated: whether the evaluation of `step` was completed; if not, its row is dropped, too.

    Raises:
      OSError: the file cannot be read or written, if this process writes it.
    """
    rows, corrupt = _read_rows(_read_content(path, required=write), path)
    self.rows = [
      row for row in rows if row["step"] < step or (row["step"] == step and (evaluated or row["kind"] != "eval"))
    ]
    self._file = None
    if write:
      if corrupt:
        with path.with_name(f"{path.name}.corrupt").open("ab") as file:
          file.writelines(line + b"\n" for line in corrupt)
      with atomic_write.atomic_path(path) as temporary:
        temporary.write_text("".join(json.dumps(row) + "\n" for row in self.rows), encoding="utf-8")
      self._file = path.open("a", encoding="utf-8")

  def append(self, row: dict[str, Any]) -> None:
    """Appends {"kind": "train" | "eval", "step": ..., ...}."""
    self.rows.append(row)
    if self._file:
      self._file.write(json.dumps(row) + "\n")
      self._file.flush()

  def close(self) -> None:
    """Closes the file."""
    if self._file:
      self._file.close()


def _read_content(path: pathlib.Path, *, required: bool) -> bytes:
  """Reads the file; if it cannot be read and is not `required`, logs it and returns b""."""
  try:
    return path.read_bytes()
  except FileNotFoundError:
    pass
  except OSError as error:
    if required:
      raise
    log.warning("%s cannot be read (%s); there are no curves", path, error.strerror)
  return b""


def _read_rows(content: bytes, path: pathlib.Path) -> tuple[list[dict[str, Any]], list[bytes]]:
  """Reads the valid rows, and the corrupt lines, which are logged; a killed process may leave a partial one."""
  rows: list[dict[str, Any]] = []
  corrupt: dict[int, bytes] = {}  # by line number
  for number, line in enumerate(content.split(b"\n"), 1):
    try:
      row = json.loads(line) if line.strip() else None
    except (ValueError, RecursionError):
      row = line
    if _is_row(row):
      rows.append(row)
    elif row is not None:
      corrupt[number] = line
  if corrupt:
    listed = ", ".join(map(str, itertools.islice(corrupt, _MAX_NAMED))) + (", ..." if len(corrupt) > _MAX_NAMED else "")
    log.warning("%s: %d corrupt lines (%s) are skipped; curves lack their steps", path, len(corrupt), listed)
  return rows, list(corrupt.values())


def _is_row(row: Any) -> TypeGuard[dict[str, Any]]:
  """Returns whether a JSON value has the fields of a row, as `History.append` writes them."""
  if not isinstance(row, dict) or type(row.get("step")) is not int or row["step"] < 0:
    return False
  if row.get("kind") == "eval":
    return isinstance(row.get("split"), str) and isinstance(row.get("metrics"), dict)
  return row.get("kind") == "train"
