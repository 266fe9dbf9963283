"""Versions of videos: what changes them, and what does not."""

import os
import shutil

import pytest

from clipvip_jax.input_pipeline.media_versions import media_versions


def version(path):
  return media_versions([path], threads=1)[os.fspath(path)]


@pytest.mark.parametrize("size", [1, 20_000, 300_000])
def test_edits_change_the_version_of_a_file_and_copies_do_not(tmp_path, size):
  path, copy = tmp_path / "a.mp4", tmp_path / "b.mp4"
  path.write_bytes(os.urandom(size))
  shutil.copy(path, copy)
  os.utime(copy, (1, 1))
  first = version(path)
  assert first == version(copy) != ""
  for offset in (0, size - 1):
    data = bytearray(copy.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)
    assert version(path) != first
  path.write_bytes(copy.read_bytes() + b"x")
  assert version(path) != first


def test_versions_of_folders_of_frames_depend_on_names_sizes_and_content(tmp_path):
  for number in range(3):
    (tmp_path / f"{number}.jpg").write_bytes(b"frame%d" % number)
  versions = [version(tmp_path)]
  (tmp_path / "2.jpg").write_bytes(b"frameX")
  versions.append(version(tmp_path))
  (tmp_path / "2.jpg").rename(tmp_path / "3.jpg")
  versions.append(version(tmp_path))
  assert len({*versions}) == 3


def test_missing_files_have_no_version(bucket, tmp_path):
  assert version(tmp_path / "none.mp4") == version(bucket / "none.mp4") == ""


def test_versions_of_objects_and_folders_in_buckets_change_with_their_content(bucket):
  for name, path in (("v/a.mp4", "v/a.mp4"), ("f/1.jpg", "f")):
    bucket.write(name, b"first")
    first = version(bucket / path)
    bucket.write(name, b"other")
    assert version(bucket / path) != first != ""
