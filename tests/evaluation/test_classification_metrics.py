"""Accuracies and confusions against a plain loop; ties."""

import numpy as np
import pytest

from clipvip_jax.evaluation import confidence
from clipvip_jax.evaluation.classification_metrics import measure_classification, predicted_classes
from clipvip_jax.utils.errors import UserError


def looped(scores, labels, names):
  """The same numbers, video by video; a tie with the true class is an error."""
  top1, top5, wrong, by_class = 0, 0, {}, {}
  for row, label in zip(scores.tolist(), labels.tolist(), strict=True):
    better = [i for i in range(len(row)) if i != label and row[i] >= row[label]]
    top1 += not better
    top5 += len(better) < 5
    by_class.setdefault(label, []).append(not better)
    if better:
      best = max(better, key=lambda i: (row[i], -i))
      wrong[label, best] = wrong.get((label, best), 0) + 1
  accuracies = {names[label]: sum(hits) / len(hits) for label, hits in sorted(by_class.items())}
  pairs = sorted(wrong.items(), key=lambda item: (-item[1], item[0]))
  return {
    "top1": top1 / len(labels),
    "top5": top5 / len(labels),
    "mean_class_accuracy": sum(accuracies.values()) / len(accuracies),
    "per_class": {
      names[label]: {"videos": len(hits), "top1": accuracies[names[label]]} for label, hits in sorted(by_class.items())
    },
    "confusions": [
      {"label": names[a], "predicted": names[b], "videos": n, "share": n / len(by_class[a])} for (a, b), n in pairs
    ],
  }


@pytest.mark.parametrize("seed", range(4))
def test_metrics_equal_a_plain_loop(seed):
  rng = np.random.default_rng(seed)
  labels = rng.integers(0, 7, 60)  # of 8 classes, one without videos
  scores = rng.integers(0, 6, (60, 8)).astype(np.float32)  # with many ties
  scores[np.arange(60), labels] += rng.integers(0, 4, 60)
  names = [f"class {i}" for i in range(8)]
  measured = measure_classification(scores, labels, names)
  expected = looped(scores, labels, names)
  for name, value in expected.items():
    assert measured[name] == (pytest.approx(value, abs=1e-12) if isinstance(value, float) else value), name
  assert measured["classes_without_videos"] == 1 and measured["size"] == 60
  hits = np.array([row[label] > np.delete(row, label).max() for row, label in zip(scores, labels, strict=True)])
  assert measured["top1_interval"] == confidence.bootstrap_interval(hits, np.arange(60))


def test_ties_count_against_the_model():
  scores, labels = np.zeros((3, 4), np.float32), np.array([0, 1, 3])
  assert predicted_classes(scores, labels).tolist() == [1, 0, 0]
  measured = measure_classification(scores, labels, list("abcd"))
  assert measured["top1"] == 0 and "top5" not in measured, "of at most five classes, the top five hold all"


def test_a_single_class_and_scores_that_are_not_finite():
  assert measure_classification(np.ones((2, 1)), np.zeros(2, int), ["a"])["top1"] == 1
  with pytest.raises(UserError, match="not finite"):
    measure_classification(np.array([[np.nan, 0.0]]), np.array([0]), ["a", "b"])
