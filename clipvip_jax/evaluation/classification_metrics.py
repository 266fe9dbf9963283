"""Metrics of classification: top-1 and top-5 accuracy, mean class accuracy, confused classes.

Letters: N videos, C classes. `scores` [N, C] are larger for likelier classes; `labels` [N] are indices of classes.
Accuracies are fractions from 0 to 1. As in retrieval, ties count against the model.
"""

import collections
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from clipvip_jax.evaluation import confidence, retrieval

TOP = (1, 5)
_MAX_CONFUSIONS = 100  # pairs of classes that results keep


def predicted_classes(scores: Float[np.ndarray, "n c"], labels: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
  """Returns the class with the highest score; where the true class ties with another, the other."""
  rows = np.arange(len(labels))
  others = np.array(scores, np.float64)
  others[rows, labels] = -np.inf
  wins = scores[rows, labels] > others.max(axis=1, initial=-np.inf)
  return np.where(wins, labels, others.argmax(axis=1))


def measure_classification(
  scores: Float[np.ndarray, "n c"], labels: Int[np.ndarray, " n"], names: Sequence[str]
) -> dict[str, Any]:
  """Measures classification.

  Args:
    scores: finite.
    labels: of at least one video.
    names: of the C classes.

  Returns:
    "size": N; "top1" and "top5", accuracies, the latter only with more than 5 classes; "top1_interval": its 95%
    bootstrap interval over videos; "mean_class_accuracy": mean of top-1 over the classes that have videos;
    "classes_without_videos": how many do not; "per_class": {name: {"videos", "top1"}}; "confusions": [{"label",
    "predicted", "videos", "share" of the videos of the label}], most frequent first.

  Raises:
    UserError: scores are not finite.
  """
  ranks = retrieval.text_to_video_ranks(scores, labels)
  hits = ranks == 1
  counts = np.bincount(labels, minlength=len(names))
  class_hits = np.bincount(labels, weights=hits, minlength=len(names))
  present = counts > 0
  accuracies = class_hits[present] / counts[present]
  return {
    "size": len(labels),
    **{f"top{k}": float(np.mean(ranks <= k)) for k in TOP if k == 1 or k < len(names)},
    "top1_interval": confidence.bootstrap_interval(hits, np.arange(len(labels))),
    "mean_class_accuracy": float(accuracies.mean()),
    "classes_without_videos": int(np.count_nonzero(~present)),
    "per_class": {
      names[index]: {"videos": int(counts[index]), "top1": float(accuracy)}
      for index, accuracy in zip(np.flatnonzero(present).tolist(), accuracies, strict=True)
    },
    "confusions": _confusions(labels, predicted_classes(scores, labels), names, counts),
  }


def _confusions(
  labels: Int[np.ndarray, " n"], predicted: Int[np.ndarray, " n"], names: Sequence[str], counts: Int[np.ndarray, " c"]
) -> list[dict[str, Any]]:
  """Returns how often videos of a class are predicted as another; ties are in the order of the classes."""
  wrong = labels != predicted
  pairs = collections.Counter(zip(labels[wrong].tolist(), predicted[wrong].tolist(), strict=True))
  most = sorted(pairs.items(), key=lambda item: (-item[1], item[0]))[:_MAX_CONFUSIONS]
  return [
    {"label": names[label], "predicted": names[other], "videos": count, "share": count / int(counts[label])}
    for (label, other), count in most
  ]
