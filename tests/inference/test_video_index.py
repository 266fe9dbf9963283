"""The index of videos: round trip, and files whose parts do not match."""

import dataclasses
import pathlib

import feature_files
import numpy as np
import pytest

from clipvip_jax.inference import video_index
from clipvip_jax.inference.video_index import VideoIndex
from clipvip_jax.utils.errors import UserError

INDEX = VideoIndex(np.eye(3, dtype=np.float32)[:2], ["r.mp4", "g.mp4"], "fake", "fake-1", ["b.mp4"], ["not a video"])


@pytest.fixture
def path(tmp_path):
  video_index.write_index(tmp_path / "i.safetensors", INDEX)
  return tmp_path / "i.safetensors"


def test_round_trip(path):
  index = video_index.read_index(path)
  np.testing.assert_array_equal(index.features, INDEX.features)
  assert (index.videos, index.source, index.identity) == (INDEX.videos, "fake", "fake-1")
  assert (index.bad, index.reasons) == (["b.mp4"], ["not a video"])
  assert index.crop == "squash"


def test_crop_is_kept_and_squash_in_indexes_of_earlier_versions(path):
  video_index.write_index(path, dataclasses.replace(INDEX, crop="center"))
  assert video_index.read_index(path).crop == "center"
  feature_files.rewrite(path, fields={"crop": None})
  assert video_index.read_index(path).crop == "squash"


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"arrays": {"features": None}}, "no tensor 'features'"),
    ({"arrays": {"features": np.zeros((2, 3))}}, r"features are float64 \[2, 3\], expected float32"),
    ({"arrays": {"features": np.zeros(3, np.float32)}}, r"features are float32 \[3\]"),
    ({"arrays": {"features": np.full((2, 3), np.nan, np.float32)}}, "features are not finite, or not of unit length"),
    ({"arrays": {"features": np.full((2, 3), 1e30, np.float32)}}, "not of unit length"),
    ({"arrays": {"features": np.diag(np.float32([1, 1.1, 1]))[:2]}}, "not of unit length"),
    ({"arrays": {"features": np.diag(np.float32([1, 0, 1]))[:2]}}, "not of unit length"),
    ({"arrays": {"features": np.eye(3, dtype=np.float32)[:1]}}, "it has 2 videos, expected 1"),
    ({"fields": {"videos": [1, 2]}}, "'videos' is not a list of strings"),
    ({"fields": {"source": ["a", "b"]}}, "'source' is not a string"),
    ({"fields": {"reasons": []}}, "it has 0 reasons, expected 1"),
    ({"fields": {"crop": ["center"]}}, "'crop' is not a string"),
    ({"fields": {"crop": "middle"}}, "its crop='middle' is unknown; use squash or center"),
  ],
)
def test_files_whose_parts_do_not_match_are_refused(path, changes, message):
  feature_files.rewrite(path, **changes)
  with pytest.raises(UserError, match=message) as refused:
    video_index.read_index(path)
  assert "i.safetensors is not an index of videos" in str(refused.value) and "\n" not in str(refused.value)


def test_missing_file_names_the_command_that_writes_one(tmp_path):
  with pytest.raises(UserError, match=r"none\.safetensors': no such file; python -m clipvip_jax\.embed"):
    video_index.read_index(tmp_path / "none.safetensors")


@pytest.mark.parametrize("make", [pathlib.Path.mkdir, lambda path: path.symlink_to("missing")])
def test_what_is_not_a_file_is_refused_as_such(tmp_path, make):
  make(tmp_path / "x.safetensors")
  with pytest.raises(UserError, match=r"x\.safetensors': not a file; python -m clipvip_jax\.embed writes one"):
    video_index.read_index(tmp_path / "x.safetensors")
