"""Deterministic interleaving of weighted streams of batches.

With weights w_i that sum to one, batch k of stream i is due at step (k + 1/2) / w_i. Batches are taken in the order in
which they are due; of batches due at the same step, that of the earlier stream comes first. The position in every
stream follows from the number of steps alone, so that a run resumes from any step.

Letters: S streams, N steps.
"""

from collections.abc import Sequence

import numpy as np


def stream_schedule(weights: Sequence[float], first_step: int, num_steps: int) -> tuple[np.ndarray, np.ndarray]:
  """Returns the streams of the steps first_step, ..., first_step + N - 1.

  Args:
    weights: [S], positive; normalized by their sum.
    first_step: at least 0.
    num_steps: N.

  Returns:
    int64 [N], the stream of each step, and int64 [N], the index of the batch within its stream.
  """
  fractions = _normalize(weights)
  # At any step, the batches taken from a stream differ from its fraction of the steps by at most about S / 2.
  slack = len(fractions) / 2 + 2
  start = np.maximum(np.floor(first_step * fractions - slack), 0).astype(np.int64)
  stop = np.ceil((first_step + num_steps) * fractions + 3 * slack).astype(np.int64)
  streams = np.repeat(np.arange(len(fractions)), stop - start)
  batches = np.concatenate([np.arange(*limits) for limits in zip(start, stop, strict=True)])
  order = np.lexsort((streams, _due_step(fractions[streams], batches)))
  selected = order[first_step - start.sum() :][:num_steps]
  return streams[selected], batches[selected]


def steps_until(weights: Sequence[float], stream: int, num_batches: int) -> int:
  """Returns the number of steps after which a stream has contributed `num_batches` batches."""
  if not num_batches:
    return 0
  fractions = _normalize(weights)
  due, slack = (num_batches - 0.5) / fractions[stream], 1.5 * len(fractions) + 2
  first = max(0, int(due - slack))
  streams, batches = stream_schedule(weights, first, int(due + slack) - first)
  return first + 1 + int(np.flatnonzero((streams == stream) & (batches == num_batches - 1))[0])


def _normalize(weights: Sequence[float]) -> np.ndarray:
  values = np.asarray(weights, np.float64)
  return values / values.sum()


def _due_step(fraction: np.ndarray, batch: np.ndarray) -> np.ndarray:
  """Returns the step at which a batch is due, rounded so that equal steps are equal in floating point."""
  return np.round((batch + 0.5) / fraction, 6)
