"""Nearest rows in blocks: the ranking of a stable sort of all scores, with ties, selections and few rows."""

import numpy as np
import pytest

from clipvip_jax.inference.nearest_rows import find_nearest
from clipvip_jax.weights import mmap_file


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
  monkeypatch.setattr(mmap_file, "BLOCK_BYTES", 7 * 4 * 4)  # seven rows of four


def sorted_rows(queries, features, top, selected=None):
  """The oracle: sorts all scores."""
  rows = np.arange(len(features)) if selected is None else np.flatnonzero(selected)
  scores = queries @ features.T
  return [sorted(rows.tolist(), key=lambda row: -line[row])[:top] for line in scores]


def integers(rng, *shape):
  return rng.integers(-2, 3, shape).astype(np.float32)  # exact products, with many ties


@pytest.mark.parametrize("top", [1, 3, 10, 100])
@pytest.mark.parametrize("count", [0, 1, 7, 60])
def test_equals_a_stable_sort_of_all_scores(count, top):
  rng = np.random.default_rng(count)
  queries, features = integers(rng, 5, 4), integers(rng, count, 4)
  found = find_nearest(queries, features, top)
  assert [[row for row, _ in rows] for rows in found] == sorted_rows(queries, features, top)
  for query, rows in zip(queries, found, strict=True):
    assert [score for _, score in rows] == [float(features[row] @ query) for row, _ in rows]


def test_equal_rows_are_in_ascending_order():
  (found,) = find_nearest(np.ones((1, 4), np.float32), np.ones((50, 4), np.float32), 5)
  assert [row for row, _ in found] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("fraction", [0, 0.1, 0.9, 1])
def test_only_selected_rows_are_returned(fraction):
  rng = np.random.default_rng(0)
  queries, features = integers(rng, 3, 4), integers(rng, 60, 4)
  selected = rng.random(60) < fraction
  found = find_nearest(queries, features, 8, selected)
  assert [[row for row, _ in rows] for rows in found] == sorted_rows(queries, features, 8, selected)


def test_many_queries_take_several_passes():
  rng = np.random.default_rng(0)
  queries, features = integers(rng, 1100, 4), integers(rng, 20, 4)
  found = find_nearest(queries, features, 2)
  assert [[row for row, _ in rows] for rows in found] == sorted_rows(queries, features, 2)


@pytest.mark.parametrize("block_rows", [1, 1000, 10**6])
@pytest.mark.parametrize("size", [30, 100, 512, 768])
def test_equal_features_tie_and_scores_depend_on_row_and_query_alone(monkeypatch, block_rows, size):
  monkeypatch.setattr(mmap_file, "BLOCK_BYTES", block_rows * size * 4)
  rng = np.random.default_rng(size)
  kinds, queries = rng.normal(size=(3, size)), rng.normal(size=(3, size))
  kinds, queries = ((x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32) for x in (kinds, queries))
  kind_of = rng.integers(0, 3, 1003)
  features = kinds[kind_of]
  scores = (kinds.astype(np.float64) @ queries.T.astype(np.float64)).astype(np.float32)
  together = find_nearest(queries, features, 1003)
  for number, query in enumerate(queries):
    expected = [(row, float(scores[kind_of[row], number])) for row in range(1003)]
    expected.sort(key=lambda pair: -pair[1])
    assert together[number] == expected
    for top in (1, 5, 900):
      assert find_nearest(query[None], features, top) == [expected[:top]]
    selected = rng.random(1003) < 0.3
    (found,) = find_nearest(query[None], features, 1003, selected)
    assert found == [pair for pair in expected if selected[pair[0]]]
