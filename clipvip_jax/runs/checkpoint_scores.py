"""Scores of checkpoints: written after the evaluation of a step, beside the files that were committed with it."""

import contextlib
import json
import math
import pathlib
from collections.abc import Iterable, Mapping, Sequence

from orbax.checkpoint import checkpoint_managers as policies

from clipvip_jax.runs.workdir import checkpoint_folders
from clipvip_jax.utils import atomic_write, file_digests
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import log

SCORE = "text_to_video_R@1"  # the metric that decides which checkpoint is the best
SCORE_FILE = "metrics/metrics"  # in the folder of a checkpoint


class KeepBest(policies.PreservationPolicy):
  """Preserves the best checkpoint of `scores`, {step: score}."""

  def __init__(self, scores: Mapping[int, float]):
    self._scores = scores

  def should_preserve(
    self, checkpoints: Sequence[policies.PolicyCheckpointInfo], *, context: policies.PreservationContext
  ) -> Sequence[bool]:
    del context
    best = by_score(self._scores, [info.step for info in checkpoints])[:1]
    return [info.step in best for info in checkpoints]


def by_score(scores: Mapping[int, float], steps: Iterable[int]) -> list[int]:
  """Returns the steps that have a score, best first, of equal scores the latest first."""
  return sorted((step for step in steps if step in scores), key=lambda step: (scores[step], step), reverse=True)


def choose_step(directory: pathlib.Path, step: int | None = None) -> int:
  """Returns the step of the best checkpoint in WORKDIR/checkpoints, or of the newest if no score was measured.

  Args:
    directory: WORKDIR/checkpoints.
    step: returned if there is a checkpoint of it; None to choose.

  Raises:
    UserError: the directory has no checkpoint, or none with this step.
  """
  folders = checkpoint_folders(directory)
  steps = sorted(int(folder.name) for folder in folders)
  if not steps:
    raise UserError(f"{directory} has no checkpoint yet; wait until its run has saved one")
  if step is None:
    scores = read_scores(folders)
    corrupt = [step for step, score in scores.items() if math.isnan(score)]
    step = next(iter(by_score(scores, (step for step in steps if step not in corrupt))), steps[-1])
    if corrupt:
      log.warning("%s: the scores of steps %s are corrupt; step %d is the best of the others", directory, corrupt, step)
  if step not in steps:
    raise UserError(f"{directory} has no checkpoint of step {step}; choose one of: {', '.join(map(str, steps))}")
  return step


def write_score(folder: pathlib.Path, score: float) -> None:
  """Adds a score to a committed checkpoint. Atomic: a score without a digest is ignored.

  Raises:
    UserError: digests.json is corrupt.
    OSError: the folder cannot be written.
  """
  path = folder / SCORE_FILE
  path.parent.mkdir(exist_ok=True)
  with atomic_write.atomic_path(path) as temporary:
    temporary.write_text(json.dumps({SCORE: score}), encoding="utf-8")
  try:
    file_digests.add_digest(folder, SCORE_FILE)
  except ValueError as error:
    raise UserError(f"{folder}: {error}; run the same command to resume from the previous checkpoint") from error


def remove_score(folder: pathlib.Path) -> None:
  """Removes a corrupt score, so that the checkpoint has none. Does nothing if digests.json is corrupt, too.

  Raises:
    OSError: the folder cannot be written.
  """
  with contextlib.suppress(ValueError):
    file_digests.remove_digest(folder, SCORE_FILE)  # a score without a digest is ignored
    (folder / SCORE_FILE).unlink(missing_ok=True)


def read_scores(folders: Iterable[pathlib.Path]) -> dict[int, float]:
  """Reads the scores of checkpoints, by step; NaN for one that is missing, corrupt or outside 0 to 1."""
  scores = {int(folder.name): _read_score(folder) for folder in folders}
  return {step: score for step, score in scores.items() if score is not None}


def _read_score(folder: pathlib.Path) -> float | None:
  try:
    digests = file_digests.read_digests(folder)
    if digests is None and not (folder / SCORE_FILE).exists():  # of an earlier version
      return None
    if digests is not None and SCORE_FILE not in digests:
      return None
    file_digests.check_digests(folder, lambda name: name == SCORE_FILE)
    score = float(json.loads((folder / SCORE_FILE).read_text(encoding="utf-8"))[SCORE])
  except (OSError, ValueError, TypeError, KeyError):
    return float("nan")
  if score == -1:  # earlier versions committed it with the checkpoint, where none was measured
    return None
  return score if 0 <= score <= 1 else float("nan")
