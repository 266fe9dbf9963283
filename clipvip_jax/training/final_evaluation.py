"""Final evaluation of a run: the best checkpoint on the final splits, results.json and report.html."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from clu import parameter_overview

from clipvip_jax.distributed import sharding
from clipvip_jax.distributed.watchdog import report_progress
from clipvip_jax.evaluation import published_results
from clipvip_jax.evaluation.evaluator import Evaluator, SplitResult
from clipvip_jax.reporting import query_examples, report, results_table
from clipvip_jax.reporting.report_inputs import Examples
from clipvip_jax.runs import workdir as run_workdir
from clipvip_jax.runs.checkpoint import Checkpoints
from clipvip_jax.runs.environments import read_environments
from clipvip_jax.runs.initial_weights import read_initial_weights
from clipvip_jax.runs.metrics_history import is_number
from clipvip_jax.runs.train_state import TrainState
from clipvip_jax.tracking.tracker import Tracker
from clipvip_jax.training.setup import Components
from clipvip_jax.utils import config_tree
from clipvip_jax.utils.log import log
from clipvip_jax.utils.versions import versions

_TRACKED = ("plain", "dsl", "twins")  # of the metrics of a split


@dataclasses.dataclass(frozen=True)
class FinalEvaluation:
  """Outcome of a run.

  Attributes:
    last_step: updates done.
    state: the best checkpoint by plain text-to-video R@1 on the selection split; the last one if none can be restored.
    best_by: how `state` was selected.
    splits: final split to its result.
  """

  last_step: int
  state: TrainState
  best_by: str
  splits: dict[str, SplitResult]


def evaluate_best(
  components: Components, evaluator: Evaluator, checkpoints: Checkpoints, state: TrainState
) -> FinalEvaluation:
  """Evaluates the best checkpoint on the final splits.

  Args:
    components: of the run.
    evaluator: of the run.
    checkpoints: of the run; where none with a score can be restored, the last state is evaluated.
    state: the last one.
  """
  last_step, evaluate = int(jax.device_get(state.step)), components.config.evaluate
  best_by = f"plain text-to-video R@1 on {evaluate.selection_split}"
  if checkpoints.best_step() not in (None, last_step):
    best = checkpoints.restore_best(components.abstract_state)
    if best is None:
      log.warning("no checkpoint with a score can be restored: the results are those of the last step, %d", last_step)
      best_by = "the last step, as no checkpoint with a score can be restored"
    state = best or state
  splits = {split: evaluator.evaluate(state.eval_params, split) for split in evaluate.final_splits}
  return FinalEvaluation(last_step, state, best_by, splits)


def write_results(
  components: Components, evaluation: FinalEvaluation, history: Sequence[Mapping[str, Any]], tracker: Tracker
) -> dict[str, Any]:
  """Writes report.html and then results.json on process 0. All processes must call it.

  Args:
    components: of the run.
    evaluation: of the run.
    history: rows of metrics.jsonl.
    tracker: records the metrics and the report.

  Returns:
    The content of results.json.
  """
  results = _results(components, evaluation)
  report_progress("writing results and report")
  # Process 0 computes the report's attention maps alone, so it needs every parameter.
  params = sharding.replicate(components.mesh, evaluation.state.eval_params)
  if jax.process_index() == 0:
    first_split = next(iter(evaluation.splits.values()), None)
    examples = Examples()
    if first_split is not None:
      examples = query_examples.report_examples(
        components.model, params, components.eval_corpus, first_split, components.config
      )
    report_path = components.workdir / "report.html"
    report.write_report(report_path, results, history, examples)
    config_tree.write_json(components.workdir / "results.json", results)  # last: a study skips runs that have it
    log.info("wrote %s/results.json and report.html", components.folder.address)
    tracker.log_results(evaluation.last_step, _final_metrics(results), report_path)
  return results


def format_results(results: Mapping[str, Any]) -> str:
  """Formats the content of results.json as tables for a terminal, one for each split."""
  corpus = results["evaluated"]["name"]
  tables = [
    results_table.format_split(split, metrics, published_results.published_rows(corpus, split))
    for split, metrics in results["splits"].items()
  ]
  return "\n\n".join(tables)


def _final_metrics(results: Mapping[str, Any]) -> dict[str, float]:
  """Returns the metrics of all splits by names for trackers, such as "final/test/plain/text_to_video/R@1"."""
  return {
    f"final/{split}/{name.replace('.', '/')}": float(value)
    for split, metrics in results["splits"].items()
    for name, value in config_tree.flatten({kind: metrics[kind] for kind in _TRACKED if kind in metrics})
    if is_number(value)
  }


def _results(components: Components, evaluation: FinalEvaluation) -> dict[str, Any]:
  """Returns the content of results.json."""
  corpus, eval_corpus = components.corpus, components.eval_corpus
  extensions, environments = run_workdir.read_extensions(components.workdir), read_environments(components.workdir)
  initial_weights = read_initial_weights(components.workdir)
  return {
    "splits": {split: result.metrics for split, result in evaluation.splits.items()},
    "step": evaluation.last_step,
    "best_step": int(jax.device_get(evaluation.state.step)),
    "best_by": evaluation.best_by,
    "num_params": int(parameter_overview.count_parameters(evaluation.state.params)),
    "corpus": {"name": corpus.name, **corpus.metadata, "mix": components.corpus_identity.get("mix", {})},
    "evaluated": {"name": eval_corpus.name, **eval_corpus.metadata},
    "config": config_tree.to_json_dict(components.config),
    "versions": versions(),
    **({"initial_weights": initial_weights} if initial_weights else {}),
    **({"extensions": extensions} if extensions else {}),
    **({"environments": environments} if len(environments) > 1 else {}),
  }
