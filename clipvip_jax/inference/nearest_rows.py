"""Exact nearest neighbours of queries among many features, in blocks.

Letters: Q queries, N rows, E embedding size.
"""

import numpy as np
from jaxtyping import Bool, Float

from clipvip_jax.weights.mmap_file import iterate_blocks

_MAX_QUERIES = 256  # per pass, which bounds the memory of scores of features of size 512 to 64 MiB


def find_nearest(
  queries: Float[np.ndarray, "q e"],
  features: Float[np.ndarray, "n e"],
  top: int,
  selected: Bool[np.ndarray, " n"] | None = None,
) -> list[list[tuple[int, float]]]:
  """Returns the `top` rows of each query with the largest inner products, best first; ties in ascending order of rows.

  Args:
    queries: one feature per query.
    features: may be a view of a mapped file; a pass over them serves 256 queries.
    top: at least 1.
    selected: the rows that may be returned; None: all.

  Returns:
    (row, inner product) pairs of each query; fewer than `top` if fewer rows are selected.
  """
  found: list[list[tuple[int, float]]] = []
  for first in range(0, len(queries), _MAX_QUERIES):
    found += _search_pass(queries[first : first + _MAX_QUERIES], features, top, selected)
  return found


def _search_pass(
  queries: Float[np.ndarray, "q e"],
  features: Float[np.ndarray, "n e"],
  top: int,
  selected: Bool[np.ndarray, " n"] | None,
) -> list[list[tuple[int, float]]]:
  rankings = [_Ranking(top) for _ in queries]
  end = 0
  for block in iterate_blocks(features):
    start, end = end, end + len(block)
    rows = np.arange(start, end)
    if selected is not None and not selected[start:end].all():
      rows = start + np.flatnonzero(selected[start:end])
      if not rows.size:
        continue
      block = block[rows - start]
    for ranking, scores in zip(rankings, queries @ block.T, strict=True):
      ranking.add(rows, scores)
  return [list(zip(ranking.rows.tolist(), ranking.scores.tolist(), strict=True)) for ranking in rankings]


class _Ranking:
  """The best rows of one query so far, best first.

  Attributes:
    rows: indices.
    scores: one per row.
  """

  def __init__(self, top: int):
    self.rows, self.scores = np.zeros(0, np.int64), np.zeros(0, np.float32)
    self._top = top

  def add(self, rows: np.ndarray, scores: np.ndarray) -> None:
    """Adds rows in ascending order, all larger than those that were added before."""
    if len(self.scores) == self._top:  # an equal score is worse, as its row is larger
      better = np.flatnonzero(scores > self.scores[-1])
      rows, scores = rows[better], scores[better]
    if len(scores) > self._top:  # sort few, but all that tie with the last of them
      smallest = np.partition(scores, len(scores) - self._top)[len(scores) - self._top]
      best = np.flatnonzero(scores >= smallest)
      rows, scores = rows[best], scores[best]
    rows, scores = np.concatenate([self.rows, rows]), np.concatenate([self.scores, scores])
    order = np.argsort(-scores, kind="stable")[: self._top]
    self.rows, self.scores = rows[order], scores[order]
