"""Embeddings in a file: what is written is read back, and files whose parts do not match are refused."""

import dataclasses

import numpy as np
import pytest

from clipvip_jax.evaluation import split_embeddings
from clipvip_jax.evaluation.split_embeddings import SplitEmbeddings
from clipvip_jax.utils.errors import UserError


def some(**changes):
  """Three clips, the first two twins, and four queries."""
  fields = {
    "split": "test",
    "videos": np.eye(3, dtype=np.float32),
    "queries": np.eye(3, dtype=np.float32)[[0, 1, 2, 2]],
    "ids": ["a", "b", "c\u00e9"],
    "texts": ["one", "two", "three", ""],
    "labels": [0, 1, 2, 2],
    "twins": [1, 0, -1],
    "counts": {"expected": 4, "missing": 1, "missing_captions": 2},
    "about": {"model": {"identity": "x"}},
  }
  return SplitEmbeddings(**{**fields, **changes})


def test_what_is_written_is_read_back_and_equal_embeddings_are_equal_files(tmp_path):
  for name in ("1.npz", "2.npz"):
    split_embeddings.write_embeddings(tmp_path / name, some())
  assert (tmp_path / "1.npz").read_bytes() == (tmp_path / "2.npz").read_bytes()
  found = split_embeddings.read_embeddings(tmp_path / "1.npz")
  for field in dataclasses.fields(SplitEmbeddings):
    np.testing.assert_equal(getattr(found, field.name), getattr(some(), field.name))
  assert found.videos.dtype == np.float32 and type(found.labels[0]) is int


def saved(path, **changes):
  split_embeddings.write_embeddings(path, some())
  with np.load(path) as file:
    arrays = {**file, **changes}
  np.savez(path, **{name: array for name, array in arrays.items() if array is not None})


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"videos": None}, "videos"),
    ({"videos": np.eye(3)}, r"videos are float64 \[3, 3\]"),
    ({"videos": np.zeros((0, 3), np.float32)}, r"videos are float32 \[0, 3\].*not empty"),
    ({"videos": np.ones((3, 2), np.float32)}, "videos have features of 2 numbers, queries of 3"),
    ({"queries": np.full((4, 3), np.nan, np.float32)}, "queries are not finite in row 0"),
    ({"queries": np.ones((5, 3), np.float32)}, r"labels are int64 \[4\], expected int64 \[5\]"),
    ({"labels": np.zeros(4)}, r"labels are float64 \[4\]"),
    ({"labels": np.array([0, 1, 2, 3])}, r"labels\[3\] is 3, allowed are 0 to 2"),
    ({"labels": np.array([0, -1, 2, 2])}, r"labels\[1\] is -1"),
    ({"labels": np.array([0, 1, 1, 1])}, "1 clips have no query, first 'cé'"),
    ({"twins": np.array([1, 0])}, r"twins are int64 \[2\], expected int64 \[3\]"),
    ({"twins": np.array([1, 0, 5])}, r"twins\[2\] is 5, allowed are -1 to 2"),
    ({"counts": np.array([1, 2])}, r"counts are int64 \[2\]"),
    ({"counts": np.array([1, -2, 0])}, "counts are "),
    ({"ids": np.array(["a"])}, "ids are 1, expected 3"),
    ({"texts": np.array(["a"])}, "texts are 1, expected 4"),
    ({"texts": np.zeros(4)}, "no texts"),
    ({"texts": np.array([object()])}, "allow_pickle"),
    ({"split": np.array(["../x"])}, "split is .*no name"),
    ({"split": np.array(["a", "b"])}, "split are 2"),
    ({"about": np.array(["{"])}, "about is no JSON object"),
    ({"about": np.array(["[1]"])}, "about is no JSON object"),
    ({"about": np.array(["[" * 9999])}, "about is no JSON object"),
  ],
)
def test_files_whose_parts_do_not_match_are_refused(tmp_path, changes, message):
  path = tmp_path / "e.npz"
  saved(path, **changes)
  with pytest.raises(UserError, match=message) as refused:
    split_embeddings.read_embeddings(path)
  assert "e.npz is no file of embeddings" in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04 cut"])
def test_other_files_are_refused(tmp_path, content):
  (tmp_path / "e.npz").write_bytes(content)
  with pytest.raises(UserError, match="no file of embeddings"):
    split_embeddings.read_embeddings(tmp_path / "e.npz")
  with pytest.raises(UserError, match=r"no such file; python -m clipvip_jax\.evaluate"):
    split_embeddings.read_embeddings(tmp_path / "none.npz")


def test_features_that_are_no_numbers_are_named_by_clip_and_by_query():
  bad = np.eye(3, dtype=np.float32)
  bad[1, 0] = np.nan
  with pytest.raises(UserError, match=r"split test: the features of 1 of 3 are not finite, those of clip 'b'"):
    some(videos=bad).similarity()
  with pytest.raises(UserError, match=r"features of 4 of 4 are not finite, those of query 'one', 'two', 'three'"):
    some(queries=np.full((4, 3), np.inf, np.float32)).similarity()


def test_equal_features_tie_wherever_they_stand():
  """A product of float32 adds up the same row differently in another place."""
  rng = np.random.default_rng(0)
  videos, queries = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in rng.normal(size=(2, 300, 512)))
  videos, queries = videos.astype(np.float32), queries.astype(np.float32)
  distinct = some(videos=videos, queries=queries).similarity()
  np.testing.assert_array_equal(distinct, queries @ videos.T)
  twice = some(videos=videos[[*range(300), 7, 123]], queries=queries[[5, *range(300)]]).similarity()
  assert twice.shape == (301, 302)
  np.testing.assert_array_equal(twice[1:, :300], distinct)
  np.testing.assert_array_equal(twice[:, 300], twice[:, 7])
  np.testing.assert_array_equal(twice[:, 301], twice[:, 123])
  np.testing.assert_array_equal(twice[0], twice[6])


def test_queries_of_several_clips_that_say_the_same_are_counted():
  assert some().duplicate_queries() == 0
  assert some(texts=["A cat", " a  cat ", "a dog", "a cats"]).duplicate_queries() == 2
  assert some(texts=["a", "b", "c", "c"]).duplicate_queries() == 0, "two captions of one clip"
