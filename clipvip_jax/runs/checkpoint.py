"""Checkpoints of a run: training state and data position, saved and restored with Orbax.

The newest checkpoints are kept, and the best by plain text-to-video R@1. Orbax writes a checkpoint under a temporary
name and commits it atomically, together with digests of its files, which are compared whenever it is read. A state is
saved before its evaluation, and its score is added afterwards. Corrupt checkpoints are quarantined (moved to
corrupt_checkpoints/, never deleted), and the run resumes from the one before.
"""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from flax import traverse_util
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers as policies

from clipvip_jax.distributed.coordination import allgather_text
from clipvip_jax.models.clip_vip import Params
from clipvip_jax.runs.checkpoint_identity import IDENTITY, RunIdentity
from clipvip_jax.runs.checkpoint_integrity import ITEMS, DataPosition, check_position, verify_while_reading
from clipvip_jax.runs.checkpoint_scores import KeepBest, by_score, choose_step, read_scores
from clipvip_jax.runs.checkpoint_storage import BucketStorage, FolderStorage
from clipvip_jax.runs.train_state import TrainState, replace_averaged
from clipvip_jax.runs.workdir import checkpoint_folders
from clipvip_jax.utils.errors import UserError, first_line
from clipvip_jax.utils.log import log, printable


def _short(error: Exception) -> str:
  return printable(first_line(error), limit=300)


class Checkpoints:
  """The checkpoints of a run. All processes must make the same calls in the same order."""

  def __init__(
    self,
    directory: pathlib.Path,
    keep: int,
    batch_size: int | None = None,
    identity: RunIdentity | None = None,
    remote: epath.Path | None = None,
  ):
    """Opens a directory, which is created if absent.

    Args:
      directory: WORKDIR/checkpoints.
      keep: number of newest checkpoints to keep, besides the best.
      batch_size: records per step, with which data positions are checked; None to check their format only.
      identity: of the run, saved with each checkpoint; None to save none.
      remote: WORKDIR/checkpoints in a bucket, where they are committed; `directory` then holds copies.

    Raises:
      UserError: on all processes; the bucket cannot be read, or checkpoints cannot be written there by several hosts.
    """
    self._storage = FolderStorage(directory) if remote is None else BucketStorage(directory, remote)
    self._directory, self._batch_size, self._identity = directory, batch_size, identity
    self._scores: dict[int, float] = {}
    policy = policies.AnyPreservationPolicy([policies.LatestN(n=max(keep, 1)), KeepBest(self._scores)])
    self._options = ocp.CheckpointManagerOptions(
      preservation_policy=policy,
      cleanup_tmp_directories=True,
      temporary_path_class=self._storage.path_class,
    )
    self._quarantined: list[int] = []  # steps
    self._reason = "corrupt metrics file"  # of the last checkpoint that could not be restored
    self._manager = self._open()

  def _open(self) -> ocp.CheckpointManager:
    """Opens a manager and reads the scores. First quarantines checkpoints with a corrupt score, if there are others."""
    self._storage.pull()
    # Process 0 decides for all, since it moves the folders while the others list them.
    folders = checkpoint_folders(self._directory) if jax.process_index() == 0 else []
    count, items = json.loads(allgather_text(json.dumps((len(folders), list(read_scores(folders).items()))))[0])
    scores = dict(items)
    corrupt = [step for step, score in scores.items() if np.isnan(score)]
    if len(corrupt) < count:
      self._quarantine(corrupt)
    elif jax.process_index() == 0:
      for step in corrupt:  # no other checkpoint is left to resume from: the newest is evaluated again
        log.warning("the score of the checkpoint of step %d in %s is corrupt, and ignored", step, self._storage.shown)
        self._storage.remove_score(step)
    self._scores.clear()
    self._scores.update((step, score) for step, score in scores.items() if not np.isnan(score))
    with self._storage.explained():
      return ocp.CheckpointManager(
        self._storage.written,
        options=self._options,
        item_names=ITEMS,
      )

  def steps(self) -> list[int]:
    """Returns the steps that have a checkpoint, oldest first."""
    return sorted(self._manager.all_steps())

  def save(self, state: TrainState, position: DataPosition) -> None:
    """Saves a checkpoint in the background, after the previous one has been committed. Idempotent per step.

    Args:
      state: on the devices; it is copied before this returns, so it may be donated.
      position: of the input pipeline, after the batch of this step.

    Raises:
      Exception: the previous save failed.
    """
    self.wait()
    step = int(jax.device_get(state.step))
    if step in self._manager.all_steps():
      return
    items = {"state": ocp.args.StandardSave(state), "data": ocp.args.JsonSave(position)}
    if self._identity is not None:
      items[IDENTITY] = ocp.args.JsonSave(self._identity)
    with self._storage.explained():
      self._manager.save(step, args=ocp.args.Composite(**items), force=True)

  def wait(self) -> None:
    """Waits until the last save is committed.

    Raises:
      Exception: that save failed.
    """
    with self._storage.explained():
      self._manager.wait_until_finished()
      self._manager.check_for_errors()
    if jax.process_index() == 0:
      self._storage.prune(self._manager.all_steps())

  def set_score(self, step: int, score: float) -> None:
    """Adds the score of an evaluation, plain text-to-video R@1, to the checkpoint of its step, after its commit.

    Raises:
      Exception: the last save failed, or the score cannot be written.
    """
    self.wait()
    if jax.process_index() == 0:
      self._storage.set_score(step, score)
    self._scores[step] = score

  def has_score(self, step: int) -> bool:
    """Returns whether the evaluation of a step was completed."""
    return step in self._scores

  def newest_committed(self) -> int | None:
    """Returns the newest committed step, also after a failed save; None if there is none."""
    return max(self._storage.committed_steps(), default=None)

  def best_step(self) -> int | None:
    """Returns the step with the highest score, the latest of equal ones; None if no step has a score."""
    return next(iter(self._steps_by_score()), None)

  def _steps_by_score(self) -> list[int]:
    self.wait()
    return by_score(self._scores, self.steps())

  def restore(self, step: int, abstract: TrainState) -> tuple[TrainState, DataPosition]:
    """Restores the checkpoint of a step.

    Args:
      step: one of `steps()`.
      abstract: shapes, dtypes and shardings of the result, in `jax.ShapeDtypeStruct`s.

    Raises:
      UserError: a bucket cannot be read.
      Exception: the checkpoint is corrupt or of other shapes; Orbax and TensorStore raise many types.
    """
    with self._storage.readable(step):
      restored = self._manager.restore(
        step,
        directory=self._directory,
        args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract), data=ocp.args.JsonRestore()),
      )
    state, position = restored["state"], restored["data"]
    check_position(step, int(jax.device_get(state.step)), position, self._batch_size)
    return state, position

  def restore_best(self, abstract: TrainState) -> TrainState | None:
    """Restores the best checkpoint that can be restored, and quarantines better ones; None if there is none."""
    restored = self._restore_first(self._steps_by_score(), abstract)
    return restored[0] if restored else None

  def restore_latest(self, abstract: TrainState) -> tuple[TrainState, DataPosition] | None:
    """Restores the newest checkpoint that can be restored, and quarantines newer ones; None if there is none.

    Raises:
      UserError: there are checkpoints, and none can be restored; or a bucket cannot be read.
    """
    steps = self.steps()[::-1]
    restored = self._restore_first(steps, abstract)
    if restored is None and (steps or self._quarantined):
      raise UserError(
        f"none of the checkpoints in {self._storage.shown} can be restored (steps"
        f" {', '.join(map(str, steps + self._quarantined))}; {self._reason}); choose another --workdir to start over"
      )
    return restored

  def _restore_first(self, steps: Sequence[int], abstract: TrainState) -> tuple[TrainState, DataPosition] | None:
    """Restores the first of `steps` that all processes can restore, and quarantines those before it."""
    for index, step in enumerate(steps):
      try:
        restored = self.restore(step, abstract)
      except UserError:
        raise
      except Exception as error:
        self._reason = _short(error)
        log.warning("checkpoint %d in %s cannot be restored (%s)", step, self._storage.shown, self._reason)
        continue
      # Each process reads its own shards, so a corrupt file may fail in one process alone.
      agreed = max(int(text) for text in allgather_text(str(index)))
      if agreed != index:
        restored = self.restore(steps[agreed], abstract)
      self._reopen_without(steps[:agreed])
      if agreed:
        log.warning("falling back to the checkpoint of step %d", steps[agreed])
      return restored
    return None

  def _reopen_without(self, steps: Sequence[int]) -> None:
    if steps:
      self._manager.close()
      self._quarantine(steps)
      self._manager = self._open()

  def _quarantine(self, steps: Sequence[int]) -> None:
    """Moves checkpoints to corrupt_checkpoints/ beside the directory."""
    if not steps:
      return
    self._quarantined += steps
    if jax.process_index() == 0:
      for step in steps:
        log.warning("moved the corrupt checkpoint of step %d to %s", step, self._storage.quarantine(step))
    if jax.process_count() > 1:
      multihost_utils.sync_global_devices("corrupt checkpoints moved")

  def close(self) -> None:
    """Waits for the last save.

    Raises:
      Exception: that save failed.
    """
    self.wait()
    self._manager.close()


def read_params(directory: pathlib.Path, step: int | None = None, *, raw: bool = False) -> tuple[Params, int]:
  """Reads the parameters of a checkpoint as NumPy arrays, without optimizer state and without changing the directory.

  Args:
    directory: WORKDIR/checkpoints.
    step: None for the best checkpoint, or the newest if no score was measured.
    raw: whether to read the parameters themselves where the run has an average of them, which is read otherwise.

  Returns:
    (parameters, their step).

  Raises:
    UserError: there is no such checkpoint, or it cannot be restored.
  """
  step = choose_step(directory, step)
  path = directory.resolve() / str(step) / "state"
  handler = ocp.PyTreeCheckpointHandler()
  try:
    with verify_while_reading(path.parent):
      tree = handler.metadata(path).tree
      item = {"step": tree["step"], **_params_to_read(tree, raw=raw)}
      restore_args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), item)
      args = ocp.args.PyTreeRestore(item=item, restore_args=restore_args, partial_restore=True)
      restored = handler.restore(path, args=args)
    position = json.loads((path.parent / "data" / "metadata").read_text(encoding="utf-8"))
    check_position(step, int(restored["step"]), position, batch_size=None)
    return replace_averaged(restored.get("params", {}), restored.get("average", {})), step
  except Exception as error:  # Orbax and TensorStore raise many types for corrupt files
    raise UserError(
      f"the checkpoint of step {step} in {directory} cannot be restored ({_short(error)}); choose another step"
    ) from error
  finally:
    handler.close()


def _params_to_read(state: Mapping[str, Any], *, raw: bool) -> dict[str, Any]:
  """Returns the part of a state's tree that holds its average, if any, and the parameters that are not in it."""
  if raw or "average" not in state:
    return {"params": state["params"]}
  params, average = (traverse_util.flatten_dict(state[name]) for name in ("params", "average"))
  others = traverse_util.unflatten_dict({path: x for path, x in params.items() if path not in average})
  return {"average": state["average"], **({"params": others} if others else {})}


def has_checkpoint(directory: pathlib.Path) -> bool:
  """Returns whether WORKDIR/checkpoints has a committed checkpoint."""
  return bool(checkpoint_folders(directory))
