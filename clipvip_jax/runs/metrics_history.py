"""What a run's history holds as points of curves. `history`: the rows of metrics.jsonl, in any order.

Of two rows for one step the later one counts; what is no finite number has no place on a curve.
"""

import json
import math
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any, TypeGuard

import numpy as np

from clipvip_jax.utils import atomic_write

Points = tuple[list[int], list[float]]  # steps, which grow, and values


def loss_curve(history: Iterable[Mapping[str, Any]]) -> Points:
  """Of training."""
  by_step = {row["step"]: row.get("loss") for row in history if row["kind"] == "train"}
  return _points(by_step)


def evaluations_by_split(history: Iterable[Mapping[str, Any]]) -> dict[str, dict[int, Mapping[str, Any]]]:
  """Split -> step -> metrics as results.json holds them."""
  by_split: dict[str, dict[int, Mapping[str, Any]]] = {}
  for row in history:
    if row["kind"] == "eval":
      by_split.setdefault(row["split"], {})[row["step"]] = row["metrics"]
  return by_split


def percent_curve(evaluated: Mapping[int, Mapping[str, Any]], *keys: str) -> Points:
  """A fraction in the metrics of one split, as ("plain", "text_to_video", "R@1"), in percent."""
  steps, values = _points({step: lookup(metrics, keys) for step, metrics in evaluated.items()})
  return steps, [100 * value for value in values]


def lookup(tree: Any, keys: Iterable[str]) -> Any:
  """{"a": {"b": 1}}, ("a", "b") -> 1; None where there is nothing."""
  for key in keys:
    tree = tree.get(key) if isinstance(tree, Mapping) else None
  return tree


def _points(by_step: Mapping[int, Any]) -> Points:
  found = sorted((step, value) for step, value in by_step.items() if is_number(value))
  return [step for step, _ in found], [value for _, value in found]


def is_number(value: Any) -> TypeGuard[float]:
  """Whether there is a finite number to show; a loss that became NaN has no place on a curve."""
  return isinstance(value, float | int | np.floating) and bool(-math.inf < value < math.inf)


class History:
  """metrics.jsonl: one line per logged step or evaluation, without times, so that equal runs write equal files."""

  def __init__(self, path: pathlib.Path, step: int, *, write: bool = True):
    """Goes on after `step`: what was written of later steps will be done again, so it is dropped.

    Args:
      path: the file, which need not exist.
      step: updates done.
      write: whether this process writes.
    """
    self.rows = [row for row in _read_rows(path) if row["step"] <= step]
    self._file = None
    if write:
      with atomic_write.atomic_path(path) as temporary:
        temporary.write_text("".join(json.dumps(row) + "\n" for row in self.rows), encoding="utf-8")
      self._file = path.open("a", encoding="utf-8")

  def append(self, row: dict[str, Any]) -> None:
    """Adds {"kind": "train" | "eval", "step": ..., ...}."""
    self.rows.append(row)
    if self._file:
      self._file.write(json.dumps(row) + "\n")
      self._file.flush()

  def close(self) -> None:
    """Closes the file."""
    if self._file:
      self._file.close()


def _read_rows(path: pathlib.Path) -> list[dict[str, Any]]:
  """The file's rows; a last line that was cut off by a kill is left out, since its step is done again."""
  if not path.exists():
    return []
  rows = []
  for line in path.read_text(encoding="utf-8").splitlines():
    try:
      rows.append(json.loads(line))
    except ValueError:
      break
  return rows
