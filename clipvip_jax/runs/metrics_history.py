"""metrics.jsonl, the history of a run, and curves drawn from it.

`history` is a list of the file's rows in any order. The later of two rows for one step counts, and values that are not
finite numbers are omitted from curves.
"""

import json
import math
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any, TypeGuard

import numpy as np

from clipvip_jax.utils import atomic_write

Points = tuple[list[int], list[float]]  # increasing steps, and their values


def loss_curve(history: Iterable[Mapping[str, Any]]) -> Points:
  """Returns the training loss by step."""
  return _points({row["step"]: row.get("loss") for row in history if row["kind"] == "train"})


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
  return isinstance(value, float | int | np.floating) and bool(-math.inf < value < math.inf)


class History:
  """Appends to metrics.jsonl: one row per logged step or evaluation, without times, so equal runs write equal files."""

  def __init__(self, path: pathlib.Path, step: int, *, write: bool = True, evaluated: bool = True):
    """Opens the history of a run that resumes from `step`. Rows of later steps are dropped: they are written again.

    Args:
      path: the file, which need not exist.
      step: completed updates.
      write: whether this process writes the file.
      evaluated: whether the evaluation of `step` was completed; if not, its row is dropped, too.
    """
    self.rows = [
      row
      for row in _read_rows(path)
      if row["step"] < step or (row["step"] == step and (evaluated or row["kind"] != "eval"))
    ]
    self._file = None
    if write:
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


def _read_rows(path: pathlib.Path) -> list[dict[str, Any]]:
  """Reads the rows up to the first invalid line: a killed process may leave a partial one, whose step is repeated."""
  if not path.exists():
    return []
  rows = []
  for line in path.read_text(encoding="utf-8").splitlines():
    try:
      rows.append(json.loads(line))
    except ValueError:
      break
  return rows
