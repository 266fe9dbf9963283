"""The linear probe against scikit-learn called plainly, its validation part and the search of C."""

import importlib.util

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from clipvip_jax.evaluation import linear_probe
from clipvip_jax.utils.errors import UserError


def features(count, num_classes, seed, noise=0.6):
  rng = np.random.default_rng(seed)
  labels = np.arange(count) % num_classes
  centres = np.random.default_rng(7).normal(size=(num_classes, 6))
  x = centres[labels] + noise * rng.normal(size=(count, 6))
  return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32), labels


@pytest.mark.parametrize("num_classes", [2, 4])
def test_probe_equals_scikit_learn_called_plainly(num_classes):
  (train, labels), (test, _) = features(60, num_classes, 1), features(20, num_classes, 2)
  fit = linear_probe.fit_probe(train, labels, test, num_classes)
  held_out = linear_probe.validation_part(labels)

  def accuracy(exponent):
    plain = LogisticRegression(C=10.0**exponent, max_iter=1000).fit(train[~held_out], labels[~held_out])
    return plain.score(train[held_out], labels[held_out])

  assert len(fit.sweep) >= 11 and {-6.0, -4.0, -2.0, 0.0, 2.0, 4.0, 6.0} <= fit.sweep.keys()
  assert fit.sweep == pytest.approx({exponent: accuracy(exponent) for exponent in fit.sweep})
  best = min(fit.sweep, key=lambda exponent: (-fit.sweep[exponent], exponent))
  assert fit.best_c == pytest.approx(10.0**best)
  final = LogisticRegression(C=fit.best_c, max_iter=1000).fit(train, labels)
  assert (fit.scores.argmax(1) == final.predict(test)).all() and fit.untrained == []
  log_odds = np.log(final.predict_proba(test))
  np.testing.assert_allclose(np.ptp(fit.scores - log_odds, axis=1), 0, atol=1e-5) if num_classes > 2 else None
  assert (fit.num_train, fit.num_validation) == (60, held_out.sum())


def test_classes_without_training_videos_are_never_predicted():
  train, labels = features(40, 2, 1)
  test, _ = features(10, 2, 2)
  fit = linear_probe.fit_probe(train, 2 * labels, test, 4)
  assert fit.untrained == [1, 3] and fit.scores.shape == (10, 4)
  assert (fit.scores[:, [1, 3]].max(axis=1) < fit.scores[:, [0, 2]].min(axis=1)).all()


def test_validation_part_is_a_fifth_of_each_class():
  labels = np.repeat([0, 1, 2, 5], [20, 2, 1, 7])
  held_out = linear_probe.validation_part(labels)
  assert np.bincount(labels[held_out], minlength=6).tolist() == [4, 1, 0, 0, 0, 1]
  assert (held_out == linear_probe.validation_part(labels)).all()
  assert (held_out != linear_probe.validation_part(labels, seed=1)).any()


@pytest.mark.parametrize("peak", [-6.0, -1.3, 0.0, 2.9, 6.0])
def test_search_ends_within_an_eighth_of_a_decade_of_the_peak(peak):
  best, sweep = linear_probe.search_exponent(lambda exponent: -abs(exponent - peak))
  assert abs(best - peak) <= 1 / 16 + 1e-9
  assert len(sweep) <= 15 and list(sweep) == sorted(sweep) and min(sweep) >= -6 and max(sweep) <= 6


def test_of_equal_accuracies_the_strongest_penalty_is_taken():
  assert linear_probe.search_exponent(lambda exponent: 1.0)[0] == -6


def test_too_few_videos_are_refused():
  x = np.eye(4, dtype=np.float32)
  with pytest.raises(UserError, match="--train has videos of 1 class; a probe needs at least two"):
    linear_probe.fit_probe(x, np.zeros(4, int), x, 3)
  with pytest.raises(UserError, match="--train has one video per class; choosing C needs"):
    linear_probe.fit_probe(x, np.arange(4), x, 4)


def test_missing_scikit_learn_is_named(monkeypatch):
  linear_probe.require_sklearn()
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  with pytest.raises(UserError, match=r"--probe needs scikit-learn.*pip install 'clipvip_jax\[probe\]'"):
    linear_probe.require_sklearn()
