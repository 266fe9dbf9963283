"""Training loop: runs the steps, and logs, saves, evaluates and stops between them."""

import contextlib
import time
from collections.abc import Iterator, Mapping

import jax
import numpy as np
from jaxtyping import Array

from clipvip_jax.distributed import device_memory, sharding
from clipvip_jax.distributed.termination import stop_requested
from clipvip_jax.distributed.watchdog import report_progress
from clipvip_jax.evaluation.evaluator import Evaluator
from clipvip_jax.input_pipeline.pipeline import iterate_batches
from clipvip_jax.reporting import results_table
from clipvip_jax.runs.checkpoint import Checkpoints
from clipvip_jax.runs.metrics_history import PEAK_MEMORY, History
from clipvip_jax.runs.train_state import TrainState
from clipvip_jax.tracking.tracker import Tracker
from clipvip_jax.training.divergence import DivergenceCheck
from clipvip_jax.training.setup import Components
from clipvip_jax.training.step_profile import StepProfiler
from clipvip_jax.training.step_timer import StepTimer
from clipvip_jax.training.train_step import JittedTrainStep, jit_train_step, num_dropout_steps
from clipvip_jax.training.update_norms import compile_update_norms
from clipvip_jax.utils import signals
from clipvip_jax.utils.errors import Terminated
from clipvip_jax.utils.log import log


class TrainLoop:
  """Training loop of one run."""

  def __init__(
    self,
    components: Components,
    evaluator: Evaluator,
    checkpoints: Checkpoints,
    history: History,
    tracker: Tracker,
  ):
    self._components, self._config = components, components.config
    self._evaluator, self._checkpoints, self._history = evaluator, checkpoints, history
    self._divergence = DivergenceCheck(components.streams, checkpoints)
    self._tracker = tracker
    self._dropout_step = _jit_step(components, drop_patches=True)
    self._full_step = _jit_step(components, drop_patches=False)
    self._norms = compile_update_norms(
      self._config.optimizer, components.lr_schedule, components.mesh, components.abstract_state
    )
    self._num_dropout_steps = num_dropout_steps(self._config, components.total_steps)

  def run(self, state: TrainState, first_step: int) -> TrainState:
    """Trains from `first_step` updates to the end and returns the final state.

    Raises:
      UserError: a loss is not finite, or the workdir was moved or deleted.
      Terminated: a signal was received; the state is saved.
    """
    total_steps = self._components.total_steps
    timer = StepTimer(first_step, total_steps, self._config.train.batch_size)
    step = first_step
    if self._evaluation_is_due(step) and not self._checkpoints.has_score(step):  # interrupted in its evaluation
      self._evaluate(state, step)
    profiler = StepProfiler(self._components.profile_steps, self._components.folder, step, timer.add_pause)
    with contextlib.closing(profiler):
      state = self._run_steps(state, step, timer, profiler)
    self._checkpoints.wait()
    self._check_workdir()
    signals.allow(self._saved(total_steps))
    return state

  def _run_steps(self, state: TrainState, step: int, timer: StepTimer, profiler: StepProfiler) -> TrainState:
    """Trains from `step` updates to the end, and logs, saves and evaluates in between."""
    total_steps = self._components.total_steps
    for batch in self._load_batches(step, timer):
      report_progress(f"step {step + 1} of {total_steps}")
      records = np.stack([batch.pop("stream"), batch.pop("record")], axis=1)
      train_step = self._dropout_step if step < self._num_dropout_steps else self._full_step
      with profiler.start_step(step + 1, state):
        state, metrics = train_step(state, sharding.shard_batch(self._components.mesh, batch))
      signals.defer()  # compiled, and there are steps to save
      step += 1
      profiler.finish_step(step, metrics)
      self._divergence.check()  # of the previous step, while this one computes
      self._divergence.defer(step, metrics, records)
      timer.finish_step(step)
      if step % self._config.host.log_every == 0 or step == total_steps:
        self._log(step, {**metrics, **self._norms(state)}, timer)
      stop_signal = stop_requested()
      self._save_and_evaluate(state, step, bool(stop_signal), timer)
      if stop_signal:
        raise Terminated(stop_signal, self._saved(step))
    return state

  def _check_workdir(self) -> None:
    """Raises UserError where the workdir is not the one that this run has locked."""
    if jax.process_index() == 0:
      self._components.folder.check_held()

  def _evaluation_is_due(self, step: int) -> bool:
    return step > 0 and (step == self._components.total_steps or step % self._config.train.eval_every == 0)

  def _saved(self, step: int) -> str:
    """Returns the message of a run that is stopped after a step was saved."""
    total_steps, workdir = self._components.total_steps, self._components.folder.address
    return f"saved step {step} of {total_steps} in {workdir}; run the same command to resume"

  def _load_batches(self, first_step: int, timer: StepTimer) -> Iterator[dict[str, np.ndarray]]:
    """Yields this process' share of each global batch, and times the wait for it."""
    iterator = iterate_batches(
      self._components.streams,
      num_steps=self._components.total_steps,
      first_step=first_step,
      num_workers=self._config.host.num_workers,
      shard=sharding.data_shard(self._components.mesh),
    )
    while True:
      start_time = time.monotonic()
      report_progress("waiting for a training batch")
      batch = next(iterator, None)
      timer.add_data_wait(time.monotonic() - start_time)
      if batch is None:
        return
      yield batch

  def _log(self, step: int, metrics: Mapping[str, Array], timer: StepTimer) -> None:
    """Writes training metrics to metrics.jsonl, the trackers and the log."""
    values = {name: float(value) for name, value in jax.device_get(metrics).items()}
    memory = {PEAK_MEMORY: peak} if (peak := device_memory.peak_bytes()) else {}
    self._divergence.check()
    self._history.append({"kind": "train", "step": step, **values, **memory})
    speed = timer.report(step)
    self._tracker.log_metrics(step, {f"train/{name}": value for name, value in (values | memory | speed).items()})
    in_use = f" | {peak / 2**30:.1f} GiB of memory" if peak else ""
    log.info("%s%s", timer.format_line(step, values["loss"], speed), in_use)
    self._components.folder.request_upload()

  def _save_and_evaluate(self, state: TrainState, step: int, stopping: bool, timer: StepTimer) -> None:
    """Saves a checkpoint and evaluates where they are due. A run that is stopping evaluates after it resumes."""
    train = self._config.train
    evaluate = self._evaluation_is_due(step)
    if not (evaluate or stopping or step % train.checkpoint_every == 0):
      return
    start_time = time.monotonic()
    self._divergence.check()
    report_progress(f"saving the checkpoint of step {step}")
    self._check_workdir()
    self._checkpoints.save(state, {"next_record": step * train.batch_size})
    if evaluate and not stopping:
      self._evaluate(state, step)
    timer.add_pause(time.monotonic() - start_time)

  def _evaluate(self, state: TrainState, step: int) -> None:
    """Evaluates a saved state on the selection split. Plain text-to-video R@1 is the score of its checkpoint."""
    split = self._config.evaluate.selection_split
    with signals.interruptible(self._saved(step)):
      metrics = self._evaluator.evaluate(state.eval_params, split).metrics
    recall = metrics["plain"]["text_to_video"]
    self._history.append({"kind": "eval", "step": step, "split": split, "metrics": metrics})
    scalars = {f"{split}/text_to_video/{name}": value for name, value in recall.items()}
    twins = ""
    if "twins" in metrics:
      scalars[f"{split}/twins"] = metrics["twins"]["accuracy"]
      twins = f" | twins {metrics['twins']['accuracy']:.1%}"
    self._tracker.log_metrics(step, scalars)
    log.info(
      "step %d | %s: text-to-video R@1 %.1f%% R@5 %.1f%% R@10 %.1f%% over %s%s",
      step,
      split,
      *(100 * recall[name] for name in ("R@1", "R@5", "R@10")),
      results_table.format_coverage(metrics),
      twins,
    )
    self._components.folder.upload()  # before the score, which makes a resumed run skip the evaluation
    self._checkpoints.set_score(step, recall["R@1"])


def _jit_step(components: Components, *, drop_patches: bool) -> JittedTrainStep:
  return jit_train_step(
    components.config,
    components.model,
    components.loss,
    components.optimizer,
    components.lr_schedule,
    components.mesh,
    components.abstract_state,
    drop_patches=drop_patches,
  )
