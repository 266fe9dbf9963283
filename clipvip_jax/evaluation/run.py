"""Runs an evaluation: embeds the splits of its targets, measures retrieval and writes the workdir.

| file | content |
|---|---|
| evaluation.json | what is evaluated: an evaluation of something else is refused |
| embeddings_SPLIT.safetensors | see `split_embeddings` |
| results.json | metrics and everything that they depend on |
| model_N/ | of several models, the files above of each; results.json beside them has mean and standard deviation |
"""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from clipvip_jax.evaluation import confidence, published_results, retrieval, split_embeddings
from clipvip_jax.evaluation.comparability import check_comparable
from clipvip_jax.evaluation.evaluator import SplitResult, measure_retrieval
from clipvip_jax.evaluation.targets import EvaluationTarget
from clipvip_jax.runs import workdir
from clipvip_jax.utils import config_tree
from clipvip_jax.utils.log import log, printable
from clipvip_jax.utils.versions import versions

_DUAL_SOFTMAX = (
  f"similarity * softmax({retrieval.DSL_TEMPERATURE:g} * similarity, over all queries of the split): it sees them at"
  " once, which a search cannot, and is no substitute for the plain numbers"
)
FILES = ("config.json", "results.json", "evaluation.json", "report.html")  # that an evaluation looks for in its workdir
_SUMMARIZED = ("plain", "dsl", "twins")
_SHARED = ("corpus", "config", "preprocessing", "published", "dual_softmax", "versions")


@dataclasses.dataclass(frozen=True)
class TargetResult:
  """Results of one target.

  Attributes:
    target: what was evaluated.
    folder: where its files are.
    results: what results.json holds.
    splits: by name.
  """

  target: EvaluationTarget
  folder: pathlib.Path
  results: dict[str, Any]
  splits: dict[str, SplitResult]


def evaluate(
  targets: Sequence[EvaluationTarget], folder: pathlib.Path, report: Callable[[TargetResult], None]
) -> dict[str, Any]:
  """Measures retrieval of one model, or of several runs of one experiment, and writes the results.

  Args:
    targets: several must be comparable, see `check_comparable`.
    folder: the workdir of the evaluation.
    report: called with the result of each target as soon as it is written.

  Returns:
    What results.json holds: of one target its metrics, of several their mean and standard deviation as "spread".

  Raises:
    UserError: the targets are not comparable, the folder holds something else, or features are not finite.
  """
  check_comparable(targets)
  workdir.claim_evaluation(folder, _identity(targets))
  if len(targets) == 1:
    result = measure_target(targets[0], folder)
    report(result)
    return result.results
  results = []
  for number, target in enumerate(targets):
    model_folder = folder / f"model_{number}"
    model_folder.mkdir(exist_ok=True)
    result = measure_target(target, model_folder)
    report(result)
    results.append(result.results)
  summary = _summarize(results)
  config_tree.write_json(folder / "results.json", summary)
  return summary


def _identity(targets: Sequence[EvaluationTarget]) -> dict[str, Any]:
  """Returns what evaluation.json holds."""
  about = targets[0].about
  return {
    **about.get("config", {}),
    "corpus": about.get("corpus", {}),
    "models": [target.about.get("model", {}).get("identity", "unknown") for target in targets],
    "splits": list(targets[0].splits),
  }


def measure_target(target: EvaluationTarget, folder: pathlib.Path) -> TargetResult:
  """Embeds the splits of one target, measures retrieval, and writes the embeddings and results.json.

  Raises:
    UserError: features are not finite.
  """
  model = target.about.get("model", {}).get("source", target.name)
  log.info("evaluating %s on %s", printable(model), printable(target.corpus_name))
  settings = target.about.get("preprocessing", {})
  shown = [printable(settings[name]) for name in ("frames", "size", "text", "dtype") if name in settings]
  log.info("preprocessing: %s", "; ".join(shown))
  splits = {}
  for split, embed in target.splits.items():
    result = splits[split] = measure_retrieval(embed())
    _add_intervals(result)
    if target.loaded is not None:
      split_embeddings.write_embeddings(folder / split_embeddings.file_name(split), result.embeddings)
  published = {split: published_results.published_rows(target.corpus_name, split) for split in splits}
  results = {
    **target.about,
    "splits": {split: result.metrics for split, result in splits.items()},
    "published": {split: rows for split, rows in published.items() if rows},
    "dual_softmax": _DUAL_SOFTMAX,
    "versions": versions(),
  }
  config_tree.write_json(folder / "results.json", results)
  return TargetResult(target, folder, results, splits)


def _add_intervals(result: SplitResult) -> None:
  """Adds R@1_interval, the bootstrap confidence interval, to the plain metrics of all directions."""
  labels = np.asarray(result.embeddings.labels)
  for direction, ranks in retrieval.ranks_by_direction(result.similarity, labels).items():
    videos = labels if direction == "text_to_video" else np.unique(labels)
    interval = confidence.bootstrap_interval(ranks == 1, videos)
    result.metrics["plain"][direction]["R@1_interval"] = interval


def _summarize(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
  """Returns mean and standard deviation over the results of several models."""
  spread = {
    split: confidence.mean_and_sd(
      [{name: value for name, value in one["splits"][split].items() if name in _SUMMARIZED} for one in results]
    )
    for split in results[0]["splits"]
  }
  return {
    "spread": spread,
    "models": [{**one.get("model", {}), "folder": f"model_{number}"} for number, one in enumerate(results)],
    **{name: results[0][name] for name in _SHARED if name in results[0]},
  }
