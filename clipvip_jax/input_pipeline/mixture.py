"""In which order the sources of a run give batches: a schedule that follows from their weights alone.

With weights that sum to one, source i's k-th batch is due at step (k + 1/2) / w_i; batches are taken as they fall due,
and of those that are due together the one of the earlier source first. Where a run stands in every source follows from
the number of its steps. Letters: S sources, N steps.
"""

from collections.abc import Sequence

import numpy as np


def schedule(weights: Sequence[float], first_step: int, num_steps: int) -> tuple[np.ndarray, np.ndarray]:
  """Steps first_step, ..., first_step + num_steps - 1.

  Args:
    weights: [S], above 0; their sum need not be one.
    first_step: at least 0.
    num_steps: N.

  Returns:
    int64 [N], the source of each step, and int64 [N], which of that source's batches it is, from 0.
  """
  shares = _shares(weights)
  # At any step, no source is further than about S / 2 batches from its share of the steps done.
  slack = len(shares) / 2 + 2
  start = np.maximum(np.floor(first_step * shares - slack), 0).astype(np.int64)
  stop = np.ceil((first_step + num_steps) * shares + 3 * slack).astype(np.int64)
  source = np.repeat(np.arange(len(shares)), stop - start)
  index = np.concatenate([np.arange(*limits) for limits in zip(start, stop, strict=True)])
  order = np.lexsort((source, _due(shares[source], index)))
  chosen = order[first_step - start.sum() :][:num_steps]
  return source[chosen], index[chosen]


def steps_until(weights: Sequence[float], source: int, batches: int) -> int:
  """The number of steps after which a source has given so many batches."""
  if not batches:
    return 0
  shares = _shares(weights)
  due, slack = (batches - 0.5) / shares[source], 1.5 * len(shares) + 2
  first = max(0, int(due - slack))
  sources, indices = schedule(weights, first, int(due + slack) - first)
  return first + 1 + int(np.flatnonzero((sources == source) & (indices == batches - 1))[0])


def _shares(weights: Sequence[float]) -> np.ndarray:
  values = np.asarray(weights, np.float64)
  return values / values.sum()


def _due(share: np.ndarray, index: np.ndarray) -> np.ndarray:
  """Rounded, so that what is due at the same time is so in floating point as well."""
  return np.round((index + 0.5) / share, 6)
