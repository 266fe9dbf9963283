"""One training run, from its configuration to results and report."""

import contextlib
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache
from ml_collections import ConfigDict

from clipvip_jax.distributed.watchdog import Watchdog
from clipvip_jax.evaluation.evaluator import Evaluator
from clipvip_jax.runs.checkpoint import Checkpoints
from clipvip_jax.runs.environments import record_environment
from clipvip_jax.runs.metrics_history import History
from clipvip_jax.runs.run_folder import RunFolder, open_run_folder
from clipvip_jax.tracking.names import parse_names
from clipvip_jax.tracking.open_trackers import open_trackers
from clipvip_jax.tracking.tracker import Tracker
from clipvip_jax.training.final_evaluation import evaluate_best, write_results
from clipvip_jax.training.initial_state import load_initial_weights, restore_or_initialize
from clipvip_jax.training.launch_consistency import check_launch
from clipvip_jax.training.locked_workdir import locked_workdir
from clipvip_jax.training.loop import TrainLoop
from clipvip_jax.training.parameter_table import write_parameter_table
from clipvip_jax.training.setup import Components, check_config, open_components
from clipvip_jax.utils import signals, unraisable
from clipvip_jax.utils.atomic_write import disk_error_reason
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.versions import code_digest, versions


def train(config: ConfigDict, workdir: pathlib.PurePath) -> dict[str, Any]:
  """Trains, evaluates and reports; resumes from the latest checkpoint in `workdir`.

  Args:
    config: see `configs/common.py`.
    workdir: the run's folder, or `epath.Path` of one in a bucket; `runs/workdir.py` lists its files.

  Returns:
    The content of results.json.

  Raises:
    UserError: bad input, a full disk, a workdir that was moved, or a loss that is not finite.
    Terminated: a signal was received; what was done is saved.
  """
  with signals.handled():
    return _train(config, workdir)


def _train(config: ConfigDict, workdir: pathlib.PurePath) -> dict[str, Any]:
  check_launch(config, versions())
  with open_run_folder(workdir, config.host.scratch_dir) as folder:
    return _train_in(folder, config)


def _train_in(folder: RunFolder, config: ConfigDict) -> dict[str, Any]:
  workdir = folder.path
  config = check_config(config, workdir)
  weights = load_initial_weights(config, workdir)  # before the corpora, which may take minutes
  components = open_components(config, workdir, folder)
  with locked_workdir(components), Watchdog(workdir, config.host.watchdog_timeout):
    _enable_compilation_cache(workdir, config.host.compilation_cache)
    evaluator = Evaluator(components.model, components.mesh, components.eval_corpus, components.tokenizer, config)
    with _open_checkpoints(components) as checkpoints:
      state, first_step = restore_or_initialize(components, checkpoints, weights)
      if jax.process_index() == 0:
        record_environment(workdir, first_step, {**versions(), "code": code_digest()})
        write_parameter_table(workdir, components.abstract_state.params, config.optimizer.frozen)
      evaluated = checkpoints.has_score(first_step)
      with (
        _open_history(workdir, first_step, evaluated=evaluated) as history,
        _open_tracker(components, first_step) as tracker,
      ):
        state = TrainLoop(components, evaluator, checkpoints, history, tracker).run(state, first_step)
        evaluation = evaluate_best(components, evaluator, checkpoints, state)
        return write_results(components, evaluation, history.rows, tracker)


def _enable_compilation_cache(workdir: pathlib.Path, folder: str) -> None:
  """Keeps compiled programs in `folder` for resumed runs, unless JAX is configured with a cache already."""
  if folder and not jax.config.values["jax_compilation_cache_dir"]:
    jax.config.update("jax_compilation_cache_dir", str(workdir / folder))
    compilation_cache.reset_cache()  # JAX reads the setting once


@contextlib.contextmanager
def _open_checkpoints(components: Components) -> Iterator[Checkpoints]:
  """Opens the run's checkpoints for a block that writes to the workdir.

  Raises:
    UserError: the workdir was moved or deleted; or the disk rejects a write of the block, and the error names the
      reason and the newest checkpoint.
  """
  unraisable.handle(unraisable.is_late_callback)
  workdir, config = components.workdir, components.config
  checkpoints = Checkpoints(
    workdir / "checkpoints",
    config.host.keep_checkpoints,
    config.train.batch_size,
    components.identity,
    components.folder.remote and components.folder.remote / "checkpoints",
  )
  try:
    with contextlib.closing(checkpoints):
      yield checkpoints
  except Exception as error:
    if jax.process_index() == 0:
      components.folder.check_held()
    if not (reason := disk_error_reason(error)):
      raise
    step = checkpoints.newest_committed()
    newest = "there is no checkpoint" if step is None else f"the newest checkpoint is step {step}"
    raise UserError(
      f"{workdir} is not writable ({reason}); stopped, {newest}. Free disk space, then run the same command to resume"
    ) from error


def _open_history(workdir: pathlib.Path, first_step: int, *, evaluated: bool) -> contextlib.closing[History]:
  """Opens metrics.jsonl, without rows that are written again; process 0 writes it."""
  path, write = workdir / "metrics.jsonl", jax.process_index() == 0
  return contextlib.closing(History(path, first_step, write=write, evaluated=evaluated))


def _open_tracker(components: Components, first_step: int) -> contextlib.AbstractContextManager[Tracker]:
  """Opens the trackers of host.tracker on process 0, and none on the others."""
  names = parse_names(components.config.host.tracker) if jax.process_index() == 0 else []
  return open_trackers(names, components.workdir, components.identity["config"], first_step)
