"""Linear probe: multinomial logistic regression on frozen features, by the protocol of CLIP (appendix A.3).

Features are of unit length and are not standardised. The inverse strength C of the L2 penalty is chosen by accuracy on
a validation part of the training videos: seven values from 1e-6 to 1e6, then the interval around the best is halved
until there are eight values per decade. The final classifier is fitted to all training videos. Letters: N videos, C
classes, E embedding size. Needs scikit-learn, the extra `probe`.
"""

import dataclasses
import importlib.util
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import log

_FIRST_EXPONENTS = tuple(range(-6, 7, 2))  # of C, to base 10
_RESOLUTION = 1 / 8  # decades between neighbouring values of the last round
_MAX_ITERATIONS = 1000
_VALIDATION_FRACTION = 0.2


@dataclasses.dataclass(frozen=True)
class ProbeFit:
  """A fitted probe.

  Attributes:
    scores: of the test videos; a class without training videos has the lowest.
    best_c: the chosen inverse strength of the penalty.
    sweep: validation accuracy of each C that was tried, by log10(C).
    num_train: training videos.
    num_validation: those of them on which C was chosen.
    untrained: indices of classes without training videos, which are never predicted.
  """

  scores: Float[np.ndarray, "n c"]
  best_c: float
  sweep: dict[float, float]
  num_train: int
  num_validation: int
  untrained: list[int]


def require_sklearn() -> None:
  """Raises UserError if scikit-learn is not installed."""
  if importlib.util.find_spec("sklearn") is None:
    raise UserError("--probe needs scikit-learn, which is not installed: pip install 'clipvip_jax[probe]'")


def fit_probe(
  train: Float[np.ndarray, "m e"],
  train_labels: Int[np.ndarray, " m"],
  test: Float[np.ndarray, "n e"],
  num_classes: int,
  seed: int = 0,
) -> ProbeFit:
  """Fits a probe and scores the test videos.

  Args:
    train: features of the training videos.
    train_labels: their classes.
    test: features of the test videos.
    num_classes: C.
    seed: of the validation part.

  Raises:
    UserError: the training videos are of fewer than two classes, or none has a second video to validate with.
  """
  trained = np.unique(train_labels)
  if len(trained) < 2:
    raise UserError(
      f"--train has videos of {len(trained)} class; a probe needs at least two classes: add videos of others"
    )
  held_out = validation_part(train_labels, seed)
  if not held_out.any():
    raise UserError("--train has one video per class; choosing C needs classes with at least two videos: add some")

  def accuracy(exponent: float) -> float:
    classifier = _fit(train[~held_out], train_labels[~held_out], exponent)
    return float(np.mean(classifier.predict(train[held_out]) == train_labels[held_out]))

  best, sweep = search_exponent(accuracy)
  classifier = _fit(train, train_labels, best)
  if classifier.n_iter_.max() >= _MAX_ITERATIONS:
    log.warning("the probe with C=%.3g did not converge in %d iterations", 10.0**best, _MAX_ITERATIONS)
  decision = np.asarray(classifier.decision_function(test), np.float64)
  decision = np.stack([-decision, decision], axis=1) if decision.ndim == 1 else decision
  scores = np.full((len(test), num_classes), decision.min(initial=0.0) - 1)
  scores[:, classifier.classes_] = decision
  untrained = sorted(set(range(num_classes)) - set(trained.tolist()))
  return ProbeFit(scores, 10.0**best, sweep, len(train), int(held_out.sum()), untrained)


def _fit(features: Float[np.ndarray, "m e"], labels: Int[np.ndarray, " m"], exponent: float) -> Any:
  from sklearn.exceptions import ConvergenceWarning
  from sklearn.linear_model import LogisticRegression

  with warnings.catch_warnings():
    warnings.simplefilter("ignore", ConvergenceWarning)  # expected for large C during the search
    return LogisticRegression(C=10.0**exponent, max_iter=_MAX_ITERATIONS).fit(features, labels)


def validation_part(labels: Int[np.ndarray, " m"], seed: int = 0) -> Bool[np.ndarray, " m"]:
  """Selects a fifth of the videos of each class, at random, at least one of two, and none of a single one."""
  rng = np.random.default_rng(seed)
  held_out = np.zeros(len(labels), bool)
  for label in np.unique(labels):
    members = rng.permutation(np.flatnonzero(labels == label))
    count = max(1, round(_VALIDATION_FRACTION * len(members))) if len(members) > 1 else 0
    held_out[members[:count]] = True
  return held_out


def search_exponent(accuracy: Callable[[float], float]) -> tuple[float, dict[float, float]]:
  """Returns log10 of the best C, the smallest of several best ones, and {log10(C): accuracy} of all that were tried."""
  sweep = {float(exponent): accuracy(exponent) for exponent in _FIRST_EXPONENTS}
  step = (_FIRST_EXPONENTS[1] - _FIRST_EXPONENTS[0]) / 2

  def best() -> float:
    return min(sweep, key=lambda exponent: (-sweep[exponent], exponent))

  while step >= _RESOLUTION:
    peak = best()
    for exponent in (peak - step, peak + step):
      if _FIRST_EXPONENTS[0] <= exponent <= _FIRST_EXPONENTS[-1] and exponent not in sweep:
        sweep[exponent] = accuracy(exponent)
    step /= 2
  return best(), dict(sorted(sweep.items()))
