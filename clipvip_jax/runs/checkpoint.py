"""Checkpoints of a run: state and data position, through Orbax.

Kept are the newest few and the best by plain text-to-video R@1. A checkpoint is written beside its final name and
renamed when whole; one that is damaged later is put aside, and the run goes on from the one before it.
"""

import json
import pathlib
import shutil
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers as policies

from clipvip_jax.distributed.coordination import allgather_text
from clipvip_jax.runs.train_state import TrainState
from clipvip_jax.utils.errors import UserError, first_line
from clipvip_jax.utils.log import log, printable

# The name of the score that decides which checkpoint is the best; below every recall where none was measured.
SCORE = "text_to_video_R@1"
_NOT_MEASURED = -1.0


def abstract_state(state: TrainState) -> TrainState:
  """Shapes, types and shardings of a state: what a checkpoint is restored onto."""
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)


def _words(error: Exception) -> str:
  return printable(first_line(error), limit=300)


def _score(metrics: dict[str, float] | None) -> float:
  return metrics[SCORE] if metrics else _NOT_MEASURED


class Checkpoints:
  """The checkpoints in `directory`."""

  def __init__(self, directory: pathlib.Path, keep: int):
    """`keep`: how many of the newest; the best is kept besides."""
    self._directory = directory
    policy = policies.AnyPreservationPolicy(
      [policies.LatestN(n=max(keep, 1)), policies.BestN(get_metric_fn=_score, n=1)]
    )
    self._options = ocp.CheckpointManagerOptions(
      preservation_policy=policy,
      best_fn=_score,  # without it Orbax writes no metrics
      cleanup_tmp_directories=True,
    )
    self._moved: list[int] = []  # damaged steps
    self._reason = "score file"  # why the last of them could not be read
    self._manager = self._open()

  def _open(self) -> ocp.CheckpointManager:
    """A manager of the folder's checkpoints, without those whose score is damaged, which it could not even list."""
    damaged: list[int] = []
    if jax.process_index() == 0:  # which moves them, so that no other finds them half moved
      steps = _steps_on_disk(self._directory)
      damaged = [step for step in steps if np.isnan(_read_score(self._directory / str(step)))]
    self._move_aside(json.loads(allgather_text(json.dumps(damaged))[0]))
    return ocp.CheckpointManager(
      self._directory,
      options=self._options,
      item_names=("state", "data"),
    )

  def steps(self) -> list[int]:
    """Steps that have a checkpoint, oldest first."""
    return sorted(self._manager.all_steps())

  def save(self, state: TrainState, position: dict[str, int], score: float | None) -> None:
    """Writes the state of its step in the background, once the write before it is known to have succeeded.

    Args:
      state: on the devices; copied before this returns, so it may be donated.
      position: where the data stands.
      score: plain text-to-video R@1, where it was measured at this step.
    """
    self._manager.wait_until_finished()
    self._manager.check_for_errors()
    step = int(state.step)
    if step in self._manager.all_steps():
      return
    self._manager.save(
      step,
      args=ocp.args.Composite(state=ocp.args.StandardSave(state), data=ocp.args.JsonSave(position)),
      metrics={SCORE: _NOT_MEASURED if score is None else score},
      force=True,
    )

  def newest_on_disk(self) -> int | None:
    """The newest step whose checkpoint is whole, whatever was wrong with a later one; None: there is none."""
    return max(_steps_on_disk(self._directory), default=None)

  def best_step(self) -> int | None:
    """The step with the highest score, the latest of equals; None: none has one."""
    return next(iter(self._by_score()), None)

  def _by_score(self) -> list[int]:
    """Steps that have a score, the highest and of equals the latest first."""
    self._manager.wait_until_finished()
    self._manager.check_for_errors()
    scores = {step: _score(self._manager.metrics(step)) for step in self.steps()}
    measured = [step for step, score in scores.items() if score != _NOT_MEASURED]
    return sorted(measured, key=lambda step: (scores[step], step), reverse=True)

  def restore_best(self, like: TrainState) -> TrainState | None:
    """The state of the highest score that can be read; others are put aside with a warning. None: there is none."""
    found = self._first_readable(self._by_score(), like)
    return found[0] if found else None

  def restore(self, step: int, like: TrainState) -> tuple[TrainState, dict[str, int]]:
    """(state, data position) of a step, placed as `like` (see `abstract_state`)."""
    restored = self._manager.restore(
      step,
      args=ocp.args.Composite(state=ocp.args.StandardRestore(like), data=ocp.args.JsonRestore()),
    )
    return restored["state"], restored["data"]

  def restore_latest(self, like: TrainState) -> tuple[TrainState, dict[str, int]] | None:
    """The newest checkpoint that can be read; those that cannot are put aside with a warning. None: there is none.

    Raises:
      UserError: there are checkpoints, and none can be read.
    """
    steps = self.steps()[::-1]
    found = self._first_readable(steps, like)
    if found is None and (steps or self._moved):
      raise UserError(
        f"none of the checkpoints in {self._directory} can be read (steps {', '.join(map(str, steps + self._moved))};"
        f" {self._reason}); name another --workdir to start over"
      )
    return found

  def _first_readable(self, steps: Sequence[int], like: TrainState) -> tuple[TrainState, dict[str, int]] | None:
    """The first of `steps` that every process can read; those before it are put aside with a warning."""
    for number, step in enumerate(steps):
      try:
        restored = self.restore(step, like)
      except Exception as error:  # Orbax and TensorStore raise many kinds for a damaged file
        self._reason = _words(error)
        log.warning("checkpoint %d in %s cannot be read (%s)", step, self._directory, self._reason)
        continue
      # A file may be damaged for one process alone, which read a part of its own: nobody goes on from that step.
      numbers = [int(text) for text in allgather_text(str(number))]
      if len(set(numbers)) > 1:
        restored = self.restore(steps[max(numbers)], like)
      self._put_aside(steps[: max(numbers)])
      if max(numbers):
        log.warning("falling back to the checkpoint of step %d", steps[max(numbers)])
      return restored
    return None

  def _put_aside(self, steps: Sequence[int]) -> None:
    """Opens the folder anew without the damaged checkpoints."""
    if steps:
      self._manager.close()
      self._move_aside(steps)
      self._manager = self._open()

  def _move_aside(self, steps: Sequence[int]) -> None:
    """Moves damaged checkpoints out of the way of new ones, without deleting them."""
    if not steps:
      return
    self._moved += steps
    aside = self._directory.with_name("damaged_checkpoints")
    if jax.process_index() == 0:
      aside.mkdir(exist_ok=True)
      for step in steps:
        target = aside / str(step)
        if target.exists():
          shutil.rmtree(target)
        (self._directory / str(step)).rename(target)
        log.warning("moved the damaged checkpoint of step %d to %s", step, target)
    if jax.process_count() > 1:
      multihost_utils.sync_global_devices("damaged checkpoints moved")

  def close(self) -> None:
    """Waits for the last write.

    Raises:
      Exception: that write failed.
    """
    self._manager.wait_until_finished()
    self._manager.check_for_errors()
    self._manager.close()


def read_params(directory: pathlib.Path, step: int | None = None) -> tuple[Any, int]:
  """(parameters as nested NumPy arrays, their step), without the optimiser's state and without touching the folder.

  Args:
    directory: a run's checkpoints.
    step: which; None: the best, or the newest where no score was measured.

  Raises:
    UserError: there is no such checkpoint, or it cannot be read.
  """
  steps = sorted(_steps_on_disk(directory))
  if not steps:
    raise UserError(f"{directory} holds no checkpoint yet")
  if step is None:
    scores = {found: np.nan_to_num(_read_score(directory / str(found)), nan=_NOT_MEASURED) for found in steps}
    step = max(steps, key=lambda found: (scores[found], found))
  if step not in steps:
    raise UserError(f"{directory} holds no checkpoint of step {step}; there are: {', '.join(map(str, steps))}")
  path = directory.resolve() / str(step) / "state"
  handler = ocp.PyTreeCheckpointHandler()
  try:
    wanted = {"params": handler.metadata(path).tree["params"]}
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
    args = ocp.args.PyTreeRestore(item=wanted, restore_args=as_numpy, partial_restore=True)
    return handler.restore(path, args=args)["params"], step
  except Exception as error:  # see Checkpoints.restore_latest
    raise UserError(f"the checkpoint of step {step} in {directory} cannot be read ({_words(error)})") from error
  finally:
    handler.close()


def _steps_on_disk(directory: pathlib.Path) -> list[int]:
  folders = directory.glob("[0-9]*") if directory.exists() else []
  return [int(folder.name) for folder in folders if folder.name.isdigit()]


def _read_score(folder: pathlib.Path) -> float:
  """The score of a checkpoint's folder, NaN where its file is damaged."""
  try:
    return float(json.loads((folder / "metrics" / "metrics").read_text(encoding="utf-8"))[SCORE])
  except (OSError, ValueError, TypeError, KeyError):
    return float("nan")
