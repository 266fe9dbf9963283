"""Bootstrap confidence intervals of recalls, and mean and standard deviation over runs.

The bootstrap resamples the videos of a split with replacement, each with all of its queries, since captions of one
video are not independent. Ranks are not computed again: they stay those among all videos of the split.

Letters: Q queries (texts, or videos in video-to-text), K distinct (hits, queries) counts of a video, R resamples.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from clipvip_jax.runs.metrics_history import is_number
from clipvip_jax.utils.errors import UserError

RESAMPLES = 10_000
_LEVEL = 0.95
_SEED = 0
MAX_CHUNK = 2**20  # integers drawn at once, which bounds the memory


def bootstrap_interval(
  hits: Bool[np.ndarray, " q"], videos: Int[np.ndarray, " q"], resamples: int = RESAMPLES, seed: int = _SEED
) -> list[float]:
  """Returns [low, high], the 95% percentile bootstrap interval of the fraction of hits; deterministic.

  Args:
    hits: whether each query is a hit.
    videos: the video of each query, any integers.
    resamples: number of bootstrap samples.
    seed: of the resampling.

  Raises:
    UserError: there is no query, or their numbers differ.
  """
  if np.shape(hits) != np.shape(videos) or not np.size(hits):
    raise UserError(f"{np.size(hits)} hits of {np.size(videos)} queries; an interval needs one per query, at least one")
  clusters = np.unique(videos, return_inverse=True)[1]
  totals = np.stack([np.bincount(clusters, weights=hits), np.bincount(clusters)], axis=1).astype(np.int64)
  # Videos with equal counts are exchangeable: draw how often each distinct pair of counts occurs.
  kinds, sizes = np.unique(totals, axis=0, return_counts=True)
  fractions = _resample(kinds, sizes, resamples, seed)
  tail = 100 * (1 - _LEVEL) / 2
  return [float(bound) for bound in np.percentile(fractions, [tail, 100 - tail])]


def _resample(
  kinds: Int[np.ndarray, "k 2"], sizes: Int[np.ndarray, " k"], resamples: int, seed: int
) -> Float[np.ndarray, " r"]:
  """Returns the fraction of hits of every resample, drawn in chunks."""
  rng, count = np.random.default_rng(seed), int(sizes.sum())
  step = max(1, MAX_CHUNK // len(sizes))
  chunks = []
  for start in range(0, resamples, step):
    drawn = rng.multinomial(count, sizes / count, size=min(step, resamples - start))
    hits, queries = (drawn @ kinds).T
    chunks.append(hits / queries)
  return np.concatenate(chunks)


def mean_and_sd(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
  """Computes mean and sample standard deviation over runs for every number in trees of equal structure.

  Returns:
    The tree with {"mean", "sd"} in place of each number. Values that are not a finite number in every run are omitted.
    sd is None for a single run.
  """
  summary: dict[str, Any] = {}
  for name, value in runs[0].items():
    values: list[Any] = [run.get(name) for run in runs]
    if isinstance(value, Mapping):
      summary[name] = mean_and_sd([other if isinstance(other, Mapping) else {} for other in values])
    elif all(map(is_number, values)):
      sd = float(np.std(values, ddof=1)) if len(values) > 1 else None
      summary[name] = {"mean": float(np.mean(values)), "sd": sd}
  return summary
