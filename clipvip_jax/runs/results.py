"""Results of a finished run or an evaluation, read from its workdir and validated."""

import dataclasses
import json
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from clipvip_jax.runs import metrics_history
from clipvip_jax.runs.fetch_run import fetch_files
from clipvip_jax.runs.workdir import DURATION
from clipvip_jax.utils import config_tree
from clipvip_jax.utils.bucket_copies import errors_by_address
from clipvip_jax.utils.errors import UserError, first_line

# Fields of the evaluated corpus that decide whether two evaluations used the same clips and pixels.
_CORPUS_FIELDS = ("name", "settings", "pixels", "annotations")


@dataclasses.dataclass(frozen=True)
class RunResults:
  """Contents of a workdir: results.json, and the rows of metrics.jsonl, which are empty if there is no such file.

  Attributes:
    folder: the workdir, which may be in a bucket.
    results: of results.json.
    history: of metrics.jsonl.
    extended: whether the run was extended after it wrote its results, and has not reached its new end.
  """

  folder: pathlib.PurePath
  results: Mapping[str, Any]
  history: Sequence[Mapping[str, Any]]
  extended: bool = False

  @property
  def splits(self) -> Mapping[str, Any]:
    """{split: metrics}."""
    return self.results["splits"]

  @property
  def corpus(self) -> dict[str, Any]:
    """Fields of the evaluated corpus that decide comparability, by dotted name."""
    corpus = self.results.get("evaluated") or self.results.get("corpus") or {}
    return dict(config_tree.flatten({name: corpus[name] for name in _CORPUS_FIELDS if name in corpus}))

  @property
  def config(self) -> dict[str, Any]:
    """The run's configuration, by dotted name."""
    return dict(config_tree.flatten(self.results.get("config") or {}))


def read_results(folder: pathlib.PurePath) -> RunResults:
  """Reads results.json and metrics.jsonl of a workdir; corrupt lines of the latter are skipped with a warning.

  Raises:
    UserError: the folder has no results, or they are invalid; or its bucket cannot be read.
  """
  with errors_by_address():
    return dataclasses.replace(_read_results(fetch_files(folder)), folder=folder)


def _read_results(folder: pathlib.Path) -> RunResults:
  path = folder / "results.json"
  if not path.is_file():
    raise UserError(
      f"{folder} holds no results.json: finish its run with the command that started it, or evaluate weights with"
      f" python -m clipvip_jax.evaluate --workdir={folder}"
    )
  try:
    results = json.loads(path.read_text(encoding="utf-8"))
  except (OSError, ValueError, RecursionError) as error:
    raise UserError(f"{path} cannot be read ({first_line(error)}): repeat the command that wrote it") from error
  if isinstance(results, dict) and "spread" in results:
    raise UserError(f"{path} holds several models: name one of them, as {folder / 'model_0'}")
  if isinstance(results, dict) and "zero_shot" in results:
    raise UserError(f"{path} is of a classification, not of retrieval; name a run or an evaluation")
  if problem := _validate(results):
    raise UserError(f"{path} is not a results file of this project: {problem}; pass a workdir")
  history = metrics_history.History(folder / "metrics.jsonl", sys.maxsize, write=False)
  return RunResults(folder, results, history.rows, _is_extended(folder, results))


def _is_extended(folder: pathlib.Path, results: Mapping[str, Any]) -> bool:
  """Returns whether config.json, which a run writes when it starts, names another duration than its results."""
  try:
    started = json.loads((folder / "config.json").read_text(encoding="utf-8"))
  except (OSError, ValueError, RecursionError):  # an evaluation has none
    return False
  configs = started, results.get("config")
  durations = [[metrics_history.lookup(config, field.split(".")) for field in DURATION] for config in configs]
  return bool(configs[1]) and durations[0] != durations[1]


def _validate(results: Any) -> str:
  """Returns what is invalid in the contents of results.json; "" if they are valid."""
  if not isinstance(results, dict) or not isinstance(results.get("splits"), dict):
    return "'splits' is missing"
  for name in ("config", "corpus", "evaluated", "versions"):
    if not isinstance(results.get(name) or {}, dict):
      return f"{name!r} is not an object"
  for name, split in results["splits"].items():
    if not isinstance(split, dict) or not isinstance(split.get("size"), int):
      return f"split {name!r} has no 'size'"
  return ""
