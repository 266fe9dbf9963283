"""Embeddings of a split: the file, similarities with exact ties, and duplicate queries."""

import dataclasses

import feature_files
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


def test_round_trip_and_equal_embeddings_are_byte_identical(tmp_path):
  for name in ("1", "2"):
    split_embeddings.write_embeddings(tmp_path / name, some())
  assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()
  embeddings = split_embeddings.read_embeddings(tmp_path / "1")
  for field in dataclasses.fields(SplitEmbeddings):
    np.testing.assert_equal(getattr(embeddings, field.name), getattr(some(), field.name))
  assert embeddings.videos.dtype == np.float32 and type(embeddings.labels[0]) is int


def test_a_clip_may_have_no_query(tmp_path):
  described = some(queries=np.eye(3, dtype=np.float32)[[0, 2]], texts=["one", "three"], labels=[0, 2])
  split_embeddings.write_embeddings(tmp_path / "e.safetensors", described)
  assert split_embeddings.read_embeddings(tmp_path / "e.safetensors").labels == [0, 2]


@pytest.mark.parametrize(
  ("arrays", "fields", "message"),
  [
    ({"videos": None}, {}, "no tensor 'videos'"),
    ({"videos": np.eye(3)}, {}, r"videos are float64 \[3, 3\]"),
    ({"videos": np.zeros((0, 3), np.float32)}, {}, r"videos are float32 \[0, 3\].*not empty"),
    ({"videos": np.ones((3, 2), np.float32)}, {}, "videos have 2 features, queries have 3"),
    ({"queries": np.full((4, 3), np.nan, np.float32)}, {}, "queries are not finite in row 0"),
    ({"queries": np.ones((5, 3), np.float32)}, {}, r"labels are int64 \[4\], expected int64 \[5\]"),
    ({"labels": np.zeros(4)}, {}, r"labels are float64 \[4\]"),
    ({"labels": np.array([0, 1, 2, 3])}, {}, r"labels\[3\] is 3, allowed are 0 to 2"),
    ({"labels": np.array([0, -1, 2, 2])}, {}, r"labels\[1\] is -1"),
    ({"twins": np.array([1, 0])}, {}, r"twins are int64 \[2\], expected int64 \[3\]"),
    ({"twins": np.array([1, 0, 5])}, {}, r"twins\[2\] is 5, allowed are -1 to 2"),
    ({}, {"counts": {"expected": 1, "missing": 2}}, "counts must be expected, missing, missing_captions"),
    ({}, {"counts": {"expected": 1, "missing": -2, "missing_captions": 0}}, "counts must be .* at least 0"),
    ({}, {"counts": {"expected": 1, "missing": 0.5, "missing_captions": 0}}, "counts must be .*integers"),
    ({}, {"ids": ["a"]}, "it has 1 ids, expected 3"),
    ({}, {"texts": ["a"]}, "it has 1 texts, expected 4"),
    ({}, {"texts": [0, 1, 2, 3]}, "'texts' is not a list of strings"),
    ({}, {"split": "../x"}, "split '../x' is not a valid name"),
    ({}, {"split": ["a", "b"]}, "'split' is not a string"),
    ({}, {"about": [1]}, "'about' is not a JSON object"),
  ],
)
def test_files_whose_parts_do_not_match_are_refused(tmp_path, arrays, fields, message):
  path = tmp_path / "e.safetensors"
  split_embeddings.write_embeddings(path, some())
  feature_files.rewrite(path, arrays, fields)
  with pytest.raises(UserError, match=message) as refused:
    split_embeddings.read_embeddings(path)
  assert "e.safetensors is not a file of embeddings" in str(refused.value) and "\n" not in str(refused.value)


def test_missing_file_names_the_command_that_writes_one(tmp_path):
  with pytest.raises(UserError, match=r"no such file; python -m clipvip_jax\.evaluate"):
    split_embeddings.read_embeddings(tmp_path / "none.safetensors")


def test_non_finite_features_are_named_by_clip_and_by_query():
  bad = np.eye(3, dtype=np.float32)
  bad[1, 0] = np.nan
  with pytest.raises(UserError, match=r"split test: the features of 1 of 3 are not finite, those of clip 'b'"):
    some(videos=bad).similarity()
  with pytest.raises(UserError, match=r"features of 4 of 4 are not finite, those of query 'one', 'two', 'three'"):
    some(queries=np.full((4, 3), np.inf, np.float32)).similarity()


def test_equal_features_tie_at_any_position():
  """A float32 matrix product sums the same row in another order at another position."""
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
  videos[:, 0] = 0
  negative = videos * np.where(np.arange(512) == 0, np.float32(-1), np.float32(1))
  signed = some(videos=np.concatenate([videos, negative[::-1]]), queries=queries).similarity()
  np.testing.assert_array_equal(signed[:, :300], signed[:, 300:][:, ::-1], "a zero and a negative zero are equal")


def test_queries_that_several_clips_share_are_counted():
  assert some().duplicate_queries() == 0
  assert some(texts=["A cat", " a  cat ", "a dog", "a cats"]).duplicate_queries() == 2
  assert some(texts=["a", "b", "c", "c"]).duplicate_queries() == 0, "two captions of one clip"
  assert some(texts=["caf\u00e9", "cafe\u0301", "cafe", "c"]).duplicate_queries() == 2, "the same in two normal forms"
