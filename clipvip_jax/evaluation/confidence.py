"""How far a recall may be from that of other videos of the same kind, and how far runs are from each other.

The interval resamples the videos of a split with replacement, each with all of its queries: several captions of a video
are no independent evidence. Ranks stay as they were among all videos of the split.

Letters: Q queries or videos that are asked, V videos, K kinds of video.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

RESAMPLES = 10_000
_LEVEL = 0.95
_SEED = 0
_AT_ONCE = 2**20  # numbers in memory


def bootstrap_interval(
  hits: Bool[np.ndarray, " q"], videos: Int[np.ndarray, " q"], resamples: int = RESAMPLES, seed: int = _SEED
) -> list[float]:
  """[low, high]: the 95% percentile bootstrap interval of the share of hits. The same input gives the same numbers.

  Args:
    hits: whether each query was answered rightly.
    videos: the video of each query, any integers.
    resamples: of the videos.
    seed: of the resampling.
  """
  clusters = np.unique(videos, return_inverse=True)[1]
  totals = np.stack([np.bincount(clusters, weights=hits), np.bincount(clusters)], axis=1).astype(np.int64)
  # Videos of as many hits and queries are of one kind: how often each kind is drawn says all, and kinds are few.
  kinds, sizes = np.unique(totals, axis=0, return_counts=True)
  shares = np.concatenate(list(_resampled(kinds, sizes, resamples, seed)))
  tail = 100 * (1 - _LEVEL) / 2
  return [float(bound) for bound in np.percentile(shares, [tail, 100 - tail])]


def _resampled(
  kinds: Int[np.ndarray, "k 2"], sizes: Int[np.ndarray, " k"], resamples: int, seed: int
) -> Sequence[Float[np.ndarray, " r"]]:
  """The share of hits of every resample, some at a time."""
  rng, count = np.random.default_rng(seed), int(sizes.sum())
  step = max(1, _AT_ONCE // len(sizes))
  found = []
  for start in range(0, resamples, step):
    drawn = rng.multinomial(count, sizes / count, size=min(step, resamples - start))
    hits, queries = (drawn @ kinds).T
    found.append(hits / queries)
  return found


def mean_and_sd(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
  """Mean and sample standard deviation over runs of every number of trees that are alike.

  Returns:
    The tree with {"mean", "sd"} in place of each number; what is no number, or not one in every run, is left out. sd is
    None where there is one run alone.
  """
  found: dict[str, Any] = {}
  for name, value in runs[0].items():
    values: list[Any] = [run.get(name) for run in runs]
    if isinstance(value, Mapping):
      found[name] = mean_and_sd([other if isinstance(other, Mapping) else {} for other in values])
    elif all(isinstance(other, int | float) and math.isfinite(other) for other in values):
      sd = float(np.std(values, ddof=1)) if len(values) > 1 else None
      found[name] = {"mean": float(np.mean(values)), "sd": sd}
  return found
