"""What a run's history holds as points of curves. `history`: the rows of metrics.jsonl, in any order.

Of two rows for one step the later one counts; what is no finite number has no place on a curve.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from clipvip_jax.charts import is_number

Points = tuple[list[int], list[float]]  # steps, which grow, and values


def losses(history: Iterable[Mapping[str, Any]]) -> Points:
  """Of training."""
  by_step = {row["step"]: row.get("loss") for row in history if row["kind"] == "train"}
  return _points(by_step)


def evaluations(history: Iterable[Mapping[str, Any]]) -> dict[str, dict[int, Mapping[str, Any]]]:
  """Split -> step -> metrics as results.json holds them."""
  by_split: dict[str, dict[int, Mapping[str, Any]]] = {}
  for row in history:
    if row["kind"] == "eval":
      by_split.setdefault(row["split"], {})[row["step"]] = row["metrics"]
  return by_split


def percents(evaluated: Mapping[int, Mapping[str, Any]], *keys: str) -> Points:
  """A fraction in the metrics of one split, as ("plain", "text_to_video", "R@1"), in percent."""
  steps, values = _points({step: at(metrics, keys) for step, metrics in evaluated.items()})
  return steps, [100 * value for value in values]


def at(tree: Any, keys: Iterable[str]) -> Any:
  """{"a": {"b": 1}}, ("a", "b") -> 1; None where there is nothing."""
  for key in keys:
    tree = tree.get(key) if isinstance(tree, Mapping) else None
  return tree


def _points(by_step: Mapping[int, Any]) -> Points:
  found = sorted((step, value) for step, value in by_step.items() if is_number(value))
  return [step for step, _ in found], [value for _, value in found]
