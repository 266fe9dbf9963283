"""What a finished run or an evaluation has left in its workdir, read back and checked."""

import dataclasses
import json
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from clipvip_jax.runs import metrics_history
from clipvip_jax.utils import config_tree
from clipvip_jax.utils.errors import UserError

# Of an evaluated corpus, what decides whether two are the same clips and pixels.
_CORPUS = ("name", "settings", "pixels", "annotations")


@dataclasses.dataclass(frozen=True)
class RunResults:
  """What a workdir holds: results.json, and the rows of metrics.jsonl, none where there is no such file."""

  folder: pathlib.Path
  results: Mapping[str, Any]
  history: Sequence[Mapping[str, Any]]

  @property
  def splits(self) -> Mapping[str, Any]:
    """Name -> metrics."""
    return self.results["splits"]

  @property
  def corpus(self) -> dict[str, Any]:
    """Of what was evaluated: the fields of _CORPUS."""
    found = self.results.get("evaluated") or self.results.get("corpus") or {}
    return dict(config_tree.flatten({name: found[name] for name in _CORPUS if name in found}))

  @property
  def config(self) -> dict[str, Any]:
    """`a.b` -> value."""
    return dict(config_tree.flatten(self.results.get("config") or {}))


def read_results(folder: pathlib.Path) -> RunResults:
  """Reads a workdir.

  Raises:
    UserError: it holds no results, or they cannot be read; says what to do.
  """
  path = folder / "results.json"
  if not path.is_file():
    raise UserError(
      f"{folder} holds no results.json: finish its run with the command that started it, or measure weights with"
      f" python -m clipvip_jax.evaluate --workdir={folder}"
    )
  try:
    results = json.loads(path.read_text(encoding="utf-8"))
  except (OSError, ValueError, RecursionError) as error:
    raise UserError(f"{path} cannot be read ({error}): start the command that wrote it again") from error
  if isinstance(results, dict) and "spread" in results:
    raise UserError(f"{path} holds several models: name one of them, as {folder / 'model_0'}")
  problem = _wrong(results)
  if problem:
    raise UserError(f"{path} holds no results of ours: {problem}")
  return RunResults(folder, results, _history(folder / "metrics.jsonl"))


def _wrong(results: Any) -> str | None:
  """What is wrong with the contents of results.json; None where nothing is."""
  if not isinstance(results, dict) or not isinstance(results.get("splits"), dict):
    return "'splits' is missing"
  for name in ("config", "corpus", "evaluated", "versions"):
    if not isinstance(results.get(name) or {}, dict):
      return f"{name!r} is no object"
  for name, split in results["splits"].items():
    if not isinstance(split, dict) or not isinstance(split.get("size"), int):
      return f"split {name!r} has no 'size'"
  return None


def _history(path: pathlib.Path) -> list[dict[str, Any]]:
  try:
    rows = metrics_history.History(path, sys.maxsize, write=False).rows
    if not all(isinstance(row["step"], int) for row in rows):
      raise TypeError("a step is no number")
    metrics_history.loss_curve(rows), metrics_history.evaluations_by_split(rows)  # whether each row has what it must
  except (OSError, KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
    raise UserError(f"{path} cannot be read ({type(error).__name__}: {error}): move it away") from error
  return rows
