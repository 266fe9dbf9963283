"""Exact nearest neighbours of queries among many features, in blocks.

A product of matrices rounds the same row differently in another block or position. It selects candidates, with a margin
for its rounding; their scores are computed row by row, so that they depend on the row and the query alone.

Letters: Q queries, N rows, E embedding size.
"""

import numpy as np
from jaxtyping import Bool, Float, Int

from clipvip_jax.weights.mmap_file import iterate_blocks

_MAX_QUERIES = 256  # per pass, which bounds the memory of scores of features of size 512 to 64 MiB
_SCORED_ROWS = 4096  # at a time, which bounds the memory of their products in float64


def find_nearest(
  queries: Float[np.ndarray, "q e"],
  features: Float[np.ndarray, "n e"],
  top: int,
  selected: Bool[np.ndarray, " n"] | None = None,
) -> list[list[tuple[int, float]]]:
  """Returns the `top` rows of each query with the largest inner products, best first; ties in ascending order of rows.

  Args:
    queries: one feature of unit length per query.
    features: of unit length; may be a view of a mapped file; a pass over them serves 256 queries.
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
  rankings = [_Ranking(top, features.shape[1]) for _ in queries]
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
  return [rank_rows(query, features, ranking.rows, top) for query, ranking in zip(queries, rankings, strict=True)]


def rank_rows(
  query: Float[np.ndarray, " e"], features: Float[np.ndarray, "n e"], rows: Int[np.ndarray, " k"], top: int
) -> list[tuple[int, float]]:
  """Returns the best of some rows in ascending order, as `find_nearest` does of all rows."""
  scores, exact_query = np.empty(len(rows), np.float32), query.astype(np.float64)
  for start in range(0, len(rows), _SCORED_ROWS):
    part = slice(start, start + _SCORED_ROWS)
    scores[part] = (features[rows[part]] * exact_query).sum(axis=1)
  best = np.argsort(-scores, kind="stable")[:top]
  return list(zip(rows[best].tolist(), scores[best].tolist(), strict=True))


class _Ranking:
  """Candidates for the best rows of one query so far.

  Attributes:
    rows: indices in ascending order.
  """

  def __init__(self, top: int, size: int):
    self.rows, self._scores = np.zeros(0, np.int64), np.zeros(0, np.float32)
    self._top, self._least = top, -np.inf
    # An inner product of vectors of unit length is off by `size` units of rounding at most, in any order of additions.
    self._margin = 2 * size * float(np.finfo(np.float32).epsneg)

  def add(self, rows: np.ndarray, scores: np.ndarray) -> None:
    """Adds rows in ascending order, all larger than those that were added before."""
    good = np.flatnonzero(scores >= self._least)
    rows, scores = np.concatenate([self.rows, rows[good]]), np.concatenate([self._scores, scores[good]])
    if len(scores) > self._top:
      self._least = np.partition(scores, len(scores) - self._top)[len(scores) - self._top] - self._margin
      good = np.flatnonzero(scores >= self._least)
      rows, scores = rows[good], scores[good]
    self.rows, self._scores = rows, scores
