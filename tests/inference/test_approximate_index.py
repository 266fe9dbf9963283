"""The graph of an index: its recall, and graphs of another index, corrupt or cut short."""

import importlib.util

import numpy as np
import pytest

from clipvip_jax.inference import approximate_index, nearest_rows, video_index
from clipvip_jax.inference.approximate_index import open_graph
from clipvip_jax.inference.video_index import VideoIndex
from clipvip_jax.utils.errors import UserError


def unit(rows):
  return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def write_index(folder, rows=3000, seed=0):
  """An index of clusters of similar videos; returns its path and itself."""
  rng = np.random.default_rng(seed)
  features = unit(rng.normal(size=(rows // 20, 32)).repeat(20, 0) + 0.7 * rng.normal(size=(rows, 32)))
  path = folder / "i.safetensors"
  video_index.write_index(path, VideoIndex(features, [f"{row}.mp4" for row in range(rows)], "fake", "fake-1", [], []))
  return path, video_index.read_index(path)


def test_recall_is_high_and_scores_are_exact(tmp_path):
  path, index = write_index(tmp_path)
  rng = np.random.default_rng(1)
  queries = unit(index.features[::30] + 0.3 * rng.normal(size=(100, 32)))
  found = open_graph(path, index).find_nearest(queries, 10)
  expected = nearest_rows.find_nearest(queries, index.features, 10)
  common = sum(len({row for row, _ in a} & {row for row, _ in b}) for a, b in zip(found, expected, strict=True))
  assert common / 1000 >= 0.95
  for query, rows in zip(queries, found, strict=True):
    scores = [score for _, score in rows]
    assert scores == sorted(scores, reverse=True) and len(rows) == 10
    np.testing.assert_allclose(scores, index.features[[row for row, _ in rows]] @ query, rtol=1e-6)


@pytest.mark.parametrize(("rows", "top"), [(0, 5), (3000, 3000), (3000, 10**9)])
def test_all_rows_are_found_if_as_many_are_asked_for(tmp_path, rows, top):
  path, index = write_index(tmp_path, rows)
  index.features[: rows // 2] = index.features[:1]  # a graph does not reach all of many equal rows
  video_index.write_index(path, index)
  index = video_index.read_index(path)
  queries = np.eye(2, 32, dtype=np.float32)
  expected = nearest_rows.find_nearest(queries, index.features, top)
  assert open_graph(path, index).find_nearest(queries, top) == expected and len(expected[0]) == rows


def test_graph_is_built_once_and_kept_beside_the_index(tmp_path, caplog):
  path, index = write_index(tmp_path, 40)
  with caplog.at_level("INFO", logger="clipvip_jax"):
    first, second = (open_graph(path, index).find_nearest(index.features[:3], 100) for _ in range(2))
  assert caplog.text.count("building") == 1 and first == second and len(first[0]) == 40
  assert {file.name for file in tmp_path.iterdir()} == {path.name, f"{path.name}.usearch", f"{path.name}.usearch.json"}


@pytest.mark.parametrize(
  ("spoil", "message"),
  [
    (lambda path: path.write_bytes(path.read_bytes()[:-1]), "usearch is corrupt: it does not match its digest"),
    (lambda path: path.write_bytes(b""), "usearch is corrupt"),
    (lambda path: path.unlink(), r"usearch cannot be read \(No such file"),
    (lambda path: path.with_name(f"{path.name}.json").write_text("{"), "usearch cannot be read"),
    (lambda path: path.with_name(f"{path.name}.json").write_text("[1]"), "usearch cannot be read"),
    (lambda path: write_index(path.parent, 40, seed=1), "usearch was built from another index"),
    (lambda path: write_index(path.parent, 60), "usearch was built from another index"),
  ],
)
def test_corrupt_graphs_and_those_of_another_index_are_refused(tmp_path, spoil, message):
  path, index = write_index(tmp_path, 40)
  open_graph(path, index)
  spoil(path.with_name(f"{path.name}.usearch"))
  with pytest.raises(UserError, match=rf"{message}.*delete .*usearch\.json to build it again") as refused:
    open_graph(path, video_index.read_index(path))
  assert "\n" not in str(refused.value)


def test_missing_package_is_named(tmp_path, monkeypatch):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  with pytest.raises(UserError, match=r"--approximate needs usearch.*pip install 'clipvip_jax\[usearch\]'"):
    approximate_index.require_usearch()


def test_unwritable_graph_is_refused(tmp_path):
  path, index = write_index(tmp_path, 40)
  (tmp_path / f"{path.name}.usearch").mkdir()
  with pytest.raises(UserError, match=r"usearch cannot be written .*; free space, or copy the index elsewhere"):
    open_graph(path, index)
