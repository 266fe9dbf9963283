"""The training loop: steps, and what is due after them. It alone logs, saves and stops."""

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from clipvip_jax.distributed import sharding
from clipvip_jax.distributed.watchdog import report_progress
from clipvip_jax.evaluation.evaluator import Evaluator
from clipvip_jax.input_pipeline.corpus import text
from clipvip_jax.input_pipeline.pipeline import batches
from clipvip_jax.reporting import results_table
from clipvip_jax.runs.checkpoint import Checkpoints
from clipvip_jax.runs.metrics_history import History
from clipvip_jax.runs.train_state import TrainState
from clipvip_jax.training.progress import Progress, tensorboard_writer
from clipvip_jax.training.setup import Components
from clipvip_jax.utils.errors import Terminated, UserError
from clipvip_jax.utils.log import log


class Loop:
  """The training loop of one run. `step`: updates done -> the jitted step that comes next."""

  def __init__(
    self,
    parts: Components,
    mesh: Mesh,
    step: Callable[[int], Any],
    evaluator: Evaluator,
    checkpoints: Checkpoints,
    history: History,
  ):
    self._parts, self._mesh, self._step = parts, mesh, step
    self._evaluator, self._checkpoints, self._history = evaluator, checkpoints, history
    self._main = jax.process_index() == 0
    self._writer = tensorboard_writer(parts.workdir, write=self._main)
    self._unchecked: tuple[int, dict[str, Any], np.ndarray] | None = None

  def train(self, state: TrainState, first_step: int) -> TrainState:
    """Every step from `first_step` on.

    Raises:
      UserError: a loss is not finite.
      Terminated: SIGTERM; the state was saved.
    """
    parts = self._parts
    total = parts.total_steps
    progress = Progress(first_step, total, parts.config.train.batch_size)
    done = first_step
    with _sigterm() as asked_to_stop:
      for batch in self._batches(first_step, progress):
        report_progress(f"step {done + 1} of {total}")
        records = np.stack([batch.pop("source"), batch.pop("record")], axis=1)
        state, metrics = self._step(done)(state, sharding.shard_batch(self._mesh, batch))
        done += 1
        self._check_finite()  # of the step before, while this one computes
        self._unchecked = (done, metrics, records)
        progress.step_done(done)
        if done % parts.config.host.log_every == 0 or done == total:
          self._log(done, metrics, progress)
        stopping = asked_to_stop(done)
        self._evaluate_and_save(state, done, stopping, progress)
        if stopping:
          raise Terminated(f"SIGTERM: saved step {done} of {total} in {parts.workdir}; the same command goes on there")
    self._writer.flush()
    return state

  def _batches(self, first_step: int, progress: Progress) -> Iterator[dict[str, np.ndarray]]:
    """The run's batches, with the time that each was waited for."""
    parts = self._parts
    found = batches(
      parts.sources,
      num_steps=parts.total_steps,
      first_step=first_step,
      num_workers=parts.config.host.num_workers,
      share=sharding.data_shard(self._mesh),
    )
    while True:
      started = time.monotonic()
      report_progress("waiting for a batch of training clips")
      batch = next(found, None)
      progress.waited(time.monotonic() - started)
      if batch is None:
        return
      yield batch

  def _evaluate_and_save(self, state: TrainState, done: int, stopping: bool, progress: Progress) -> None:
    """What is due after a step. A checkpoint follows every evaluation, so that its score is kept with it."""
    config = self._parts.config.train
    last = done == self._parts.total_steps
    evaluate = last or done % config.eval_every == 0
    if not (evaluate or stopping or done % config.checkpoint_every == 0):
      return
    started = time.monotonic()
    self._check_finite()
    score = self._evaluate(state, done) if evaluate else None
    report_progress(f"saving the checkpoint of step {done}")
    self._checkpoints.save(state, {"next_record": done * self._parts.config.train.batch_size}, score)
    progress.paused(time.monotonic() - started)

  def _evaluate(self, state: TrainState, done: int) -> float:
    """Plain text-to-video R@1 on the split that chooses the best checkpoint."""
    split = self._parts.config.evaluate.selection_split
    metrics = self._evaluator.split(state.params, split).metrics
    recall = metrics["plain"]["text_to_video"]
    self._history.append({"kind": "eval", "step": done, "split": split, "metrics": metrics})
    scalars = {f"{split}/text_to_video/{name}": value for name, value in recall.items()}
    twins = ""
    if "twins" in metrics:
      scalars[f"{split}/twins"] = metrics["twins"]["accuracy"]
      twins = f" | twins {metrics['twins']['accuracy']:.1%}"
    self._writer.write_scalars(done, scalars)
    log.info(
      "step %d | %s: text-to-video R@1 %.1f%% R@5 %.1f%% R@10 %.1f%% over %s%s",
      done,
      split,
      *(100 * recall[name] for name in ("R@1", "R@5", "R@10")),
      results_table.format_coverage(metrics),
      twins,
    )
    return recall["R@1"]

  def _log(self, done: int, metrics: dict[str, Any], progress: Progress) -> None:
    values = {name: float(value) for name, value in metrics.items()}
    self._check_finite()
    self._history.append({"kind": "train", "step": done, **values})
    numbers = progress.report(done)
    self._writer.write_scalars(done, {f"train/{name}": value for name, value in (values | numbers).items()})
    log.info(progress.line(done, values["loss"], numbers))

  def _check_finite(self) -> None:
    """Stops at a loss that is no number, naming the records of its batch; no checkpoint holds what came of it."""
    if self._unchecked is None:
      return
    done, metrics, records = self._unchecked
    self._unchecked = None
    loss, norm = float(metrics["loss"]), float(metrics["grad_norm"])
    if np.isfinite(loss) and np.isfinite(norm):
      return
    names = [text(self._parts.sources[source].clips.source[int(i)], "id") for source, i in records if i >= 0]
    steps = self._checkpoints.steps()
    kept = f"the newest checkpoint is that of step {steps[-1]}" if steps else "there is no checkpoint yet"
    raise UserError(
      f"step {done}: loss {loss}, gradient norm {norm}; stopped, {kept}. Records of the batch: {', '.join(names)}. "
      "Look at them, or try a smaller optimizer.learning_rate or model.dtype=float32"
    )


@contextlib.contextmanager
def _sigterm() -> Iterator[Callable[[int], bool]]:
  """A function of the steps done: whether to stop there, because SIGTERM came.

  Several processes must stop at the same step: there JAX, which listens to the signal itself, agrees on one.
  """
  if jax.process_count() > 1:
    yield multihost_utils.reached_preemption_sync_point
    return
  received: list[int] = []
  if threading.current_thread() is not threading.main_thread():
    yield lambda done: False  # only the main thread may handle signals
    return
  before = signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
  try:
    yield lambda done: bool(received)
  finally:
    signal.signal(signal.SIGTERM, before)
