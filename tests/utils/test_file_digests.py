"""Digests of files: every change is detected, whatever the size; digests.json."""

import json

import numpy as np
import pytest

from clipvip_jax.utils import file_digests

BLOCK = 8 * 2**14  # bytes


def digest(path, content):
  path.write_bytes(content)
  return file_digests.digest_files([path])[0]


@pytest.mark.parametrize("size", [0, 1, 7, 8, BLOCK - 1, BLOCK, BLOCK + 1, 16 * BLOCK, 40 * BLOCK + 5, 2**26 + 9])
def test_any_flipped_bit_and_any_length_change_the_digest(tmp_path, size):
  rng = np.random.default_rng(size)
  content = rng.bytes(size)
  original = digest(tmp_path / "file", content)
  assert len(original) == 32 and original == digest(tmp_path / "copy", content)
  assert digest(tmp_path / "file", content + b"\0") != original
  for _ in range(min(size, 5)):
    assert digest(tmp_path / "file", content[:-1]) != original
    flipped = bytearray(content)
    flipped[rng.integers(size)] ^= 1 << rng.integers(8)
    assert digest(tmp_path / "file", bytes(flipped)) != original


def test_moved_repeated_and_zeroed_pages_change_the_digest(tmp_path):
  pages = np.random.default_rng(0).integers(0, 256, (64, 4096), dtype=np.uint8)
  swapped, repeated, zeroed = pages[[1, 0, *range(2, 64)]], pages[[0, 0, *range(2, 64)]], pages.copy()
  zeroed[5] = 0
  digests = {digest(tmp_path / "file", array.tobytes()) for array in (pages, swapped, repeated, zeroed, pages[::-1])}
  assert len(digests) == 5


@pytest.fixture
def folder(tmp_path):
  (tmp_path / "a").mkdir()
  (tmp_path / "a" / "b").write_bytes(b"b" * 1000)
  (tmp_path / "c").write_bytes(b"c")
  file_digests.write_digests(tmp_path)
  return tmp_path


def test_an_unchanged_folder_passes_and_further_files_are_ignored(folder):
  (folder / "later").write_text("x")
  assert set(file_digests.read_digests(folder)) == {"a/b", "c"}
  assert file_digests.check_digests(folder)


def test_unselected_files_are_not_listed(folder):
  file_digests.write_digests(folder, lambda name: name != "c")
  assert set(file_digests.read_digests(folder)) == {"a/b"}


def test_changed_and_missing_files_are_named(folder):
  (folder / "a" / "b").write_bytes(b"b" * 999 + b"c")
  with pytest.raises(ValueError, match="a/b does not match its digest"):
    file_digests.check_digests(folder)
  assert file_digests.check_digests(folder, lambda name: name == "c"), "only selected files are compared"
  (folder / "a" / "b").unlink()
  with pytest.raises(ValueError, match="a/b is missing"):
    file_digests.check_digests(folder)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"c": 1}', "\0"])
def test_a_corrupt_list_of_digests_is_an_error(folder, content):
  (folder / file_digests.NAME).write_text(content)
  with pytest.raises(ValueError, match=r"digests\.json is corrupt"):
    file_digests.check_digests(folder)


def test_a_folder_without_digests_is_not_verified(tmp_path):
  assert not file_digests.check_digests(tmp_path)


def test_every_flipped_bit_of_the_list_is_detected_or_harmless(folder):
  path = folder / file_digests.NAME
  content, digests = path.read_bytes(), json.loads(path.read_text())
  for bit in range(8 * len(content)):
    flipped = bytearray(content)
    flipped[bit // 8] ^= 1 << bit % 8
    path.write_bytes(flipped)
    try:
      file_digests.check_digests(folder)
    except ValueError:
      continue
    assert json.loads(path.read_bytes()) == digests  # white space


def test_a_changed_name_in_the_list_is_corrupt_whatever_is_compared(folder):
  path = folder / file_digests.NAME
  path.write_text(path.read_text().replace('"a/b"', '"a/d"'))
  with pytest.raises(ValueError, match=r"digests\.json is corrupt"):
    file_digests.check_digests(folder, lambda name: name == "c")


def test_the_digest_of_a_later_file_is_added(folder, tmp_path_factory):
  (folder / "later").write_text("x")
  file_digests.add_digest(folder, "later")
  assert set(file_digests.read_digests(folder)) == {"a/b", "c", "later"}
  (folder / "later").unlink()
  with pytest.raises(ValueError, match="later is missing"):
    file_digests.check_digests(folder)
  earlier = tmp_path_factory.mktemp("earlier")
  (earlier / "later").write_text("x")
  file_digests.add_digest(earlier, "later")
  assert file_digests.read_digests(earlier) is None, "of a folder without digests"
