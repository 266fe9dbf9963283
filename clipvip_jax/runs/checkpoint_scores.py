"""Scores of checkpoints: written after the evaluation of a step, beside the files that were committed with it."""

import json
import pathlib
import tempfile
from collections.abc import Iterable, Mapping, Sequence

from orbax.checkpoint import checkpoint_managers as policies

from clipvip_jax.utils import file_digests

SCORE = "text_to_video_R@1"  # the metric that decides which checkpoint is the best
_METRICS = "metrics"  # in the folder of a checkpoint: a folder with a file of this name and its digest


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


def write_score(folder: pathlib.Path, score: float) -> None:
  """Adds a score and its digest to a committed checkpoint atomically."""
  with tempfile.TemporaryDirectory(dir=folder, prefix=f".{_METRICS}.") as temporary:
    metrics = pathlib.Path(temporary, _METRICS)
    metrics.mkdir()
    (metrics / _METRICS).write_text(json.dumps({SCORE: score}), encoding="utf-8")
    file_digests.write_digests(metrics)
    metrics.rename(folder / _METRICS)


def read_scores(folders: Iterable[pathlib.Path]) -> dict[int, float]:
  """Reads the scores of checkpoints, by step, where one was measured; NaN if it is corrupt or no recall."""
  scores = {int(folder.name): _read_score(folder) for folder in folders}
  return {step: score for step, score in scores.items() if score is not None}


def _read_score(folder: pathlib.Path) -> float | None:
  if not (folder / _METRICS).exists():
    return None
  try:
    # Earlier versions committed the score with the checkpoint, and -1 where none was measured.
    if not file_digests.check_digests(folder / _METRICS):
      file_digests.check_digests(folder, lambda name: name.startswith(f"{_METRICS}/"))
    score = float(json.loads((folder / _METRICS / _METRICS).read_text(encoding="utf-8"))[SCORE])
  except (OSError, ValueError, TypeError, KeyError):
    return float("nan")
  if score == -1:
    return None
  return score if 0 <= score <= 1 else float("nan")
