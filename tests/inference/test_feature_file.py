"""Feature files: round trips, byte-identical output, corrupt and hostile files."""

import os
import pickle

import feature_files
import numpy as np
import pytest
from safetensors.numpy import load_file, save, save_file

from clipvip_jax.inference import feature_file
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import log

ARRAYS = {"features": np.arange(6, dtype=np.float32).reshape(2, 3), "labels": np.array([1, 0])}
FIELDS = {"names": ["a", "b\u00e9\n", os.fsdecode(b"caf\xe9")], "split": "test", "about": {"a": [1.5, None]}}
TYPES = {"names": list, "split": str, "about": dict}


def read(path, arrays=("features", "labels")):
  return feature_file.read_features(path, arrays, TYPES, "a test file")


def test_round_trip_is_exact_and_equal_contents_are_byte_identical(tmp_path):
  for name in ("1", "2"):
    order = sorted(FIELDS, reverse=name == "2")
    feature_file.write_features(tmp_path / name, ARRAYS, {field: FIELDS[field] for field in order})
  assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()
  arrays, fields = read(tmp_path / "1")
  assert fields == FIELDS
  for name, array in ARRAYS.items():
    np.testing.assert_array_equal(arrays[name], array)
    assert arrays[name].dtype == array.dtype


def test_arrays_of_no_rows_and_in_any_memory_order_round_trip(tmp_path):
  arrays = {"features": np.zeros((0, 3), np.float32), "labels": np.arange(6).reshape(2, 3).T}
  feature_file.write_features(tmp_path / "file", arrays, FIELDS)
  read_arrays, _ = read(tmp_path / "file")
  assert read_arrays["features"].shape == (0, 3)
  np.testing.assert_array_equal(read_arrays["labels"], arrays["labels"])


def test_arrays_outlive_the_file(tmp_path):
  feature_file.write_features(tmp_path / "file", ARRAYS, FIELDS)
  arrays, _ = read(tmp_path / "file")
  (tmp_path / "file").write_bytes(b"")
  np.testing.assert_array_equal(arrays["features"], ARRAYS["features"])


def test_files_have_the_bytes_of_the_library(tmp_path):
  arrays = {"b": np.arange(3), "a": np.ones((2, 3), np.float32), "c": np.zeros((0, 3), np.float32)}
  feature_file.write_features(tmp_path / "file", arrays, FIELDS)
  assert (tmp_path / "file").read_bytes() == save(load_file(tmp_path / "file"))


def test_blocks_of_rows_are_written_as_the_array_that_they_form(tmp_path):
  array = np.arange(30, dtype=np.float32).reshape(10, 3)
  blocks = feature_file.RowBlocks(array.shape, lambda: iter([array[:4], array[4:4], array[4:]]))
  feature_file.write_features(tmp_path / "array", {"features": array}, FIELDS)
  feature_file.write_features(tmp_path / "blocks", {"features": blocks}, FIELDS)
  assert (tmp_path / "blocks").read_bytes() == (tmp_path / "array").read_bytes()


def test_only_large_arrays_are_views_of_the_file(tmp_path):
  arrays = {"large": np.ones((33 << 16, 4), np.float32), "small": np.ones(3, np.float32)}
  feature_file.write_features(tmp_path / "file", arrays, {})
  for mapped in (False, True):
    read_arrays, _ = feature_file.read_features(tmp_path / "file", list(arrays), {}, "a test file", mapped=mapped)
    assert read_arrays["small"].flags.writeable and read_arrays["large"].flags.writeable is not mapped
    assert (read_arrays["large"] == 1).all()


def test_write_error_names_the_file_and_leaves_nothing(tmp_path):
  with pytest.raises(UserError, match=r"none/file cannot be written \(No such file or directory\); name another"):
    feature_file.write_features(tmp_path / "none" / "file", ARRAYS, FIELDS)
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  ("arrays", "fields", "message"),
  [
    ({"features": None}, {}, "it has no tensor 'features'"),
    ({}, {"split": None}, "field 'split' is not a string"),
    ({}, {"split": ["test"]}, "field 'split' is not a string"),
    ({}, {"names": "a"}, "field 'names' is not a list of strings"),
    ({}, {"names": ["a", 1]}, "field 'names' is not a list of strings"),
    ({}, {"about": [1]}, "field 'about' is not a JSON object"),
  ],
)
def test_missing_and_mistyped_contents_are_refused(tmp_path, arrays, fields, message):
  path = tmp_path / "file"
  feature_file.write_features(path, ARRAYS, FIELDS)
  feature_files.rewrite(path, arrays, fields)
  with pytest.raises(UserError, match=f"file is not a test file: {message}"):
    read(path)


@pytest.mark.parametrize("text", [b"", b"{", b"[1]", b"\xff", b"[" * 100_000, b'{"a": %s}' % (b"9" * 5000)])
def test_fields_that_are_not_a_json_object_are_refused(tmp_path, text):
  save_file({**ARRAYS, "fields": np.frombuffer(text, np.uint8)}, tmp_path / "file")
  with pytest.raises(UserError, match="file is not a test file: tensor 'fields' is not a JSON object"):
    read(tmp_path / "file")


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04 cut", b"\xff" * 64, pickle.dumps({"features": 1})])
def test_corrupt_files_are_refused_in_one_line(tmp_path, content):
  (tmp_path / "file").write_bytes(content)
  with pytest.raises(UserError) as refused:
    read(tmp_path / "file")
  assert str(refused.value).startswith(f"{tmp_path / 'file'}") and "\n" not in str(refused.value)


@pytest.mark.parametrize("change", [lambda x: b"", lambda x: x[:5], lambda x: x[:-1], lambda x: x[:-9] + b"!" + x[-8:]])
def test_a_corrupt_file_is_called_so_with_what_to_do(tmp_path, change):
  feature_file.write_features(tmp_path / "file", ARRAYS, FIELDS)
  (tmp_path / "file").write_bytes(change((tmp_path / "file").read_bytes()))
  with pytest.raises(UserError, match=r"file is (corrupt|empty).*; write it again, or restore a copy$"):
    read(tmp_path / "file")


def test_truncated_file_is_refused_at_every_length(tmp_path):
  feature_file.write_features(tmp_path / "file", ARRAYS, FIELDS)
  content = (tmp_path / "file").read_bytes()
  for length in range(len(content)):
    (tmp_path / "file").write_bytes(content[:length])
    with pytest.raises(UserError):
      read(tmp_path / "file")


def test_every_flipped_bit_is_an_error_or_changes_nothing(tmp_path, caplog, monkeypatch):
  monkeypatch.setattr(log, "propagate", True)
  path = tmp_path / "file"
  feature_file.write_features(path, ARRAYS, FIELDS)
  content = path.read_bytes()
  refused = 0
  for bit in range(8 * len(content)):
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    path.write_bytes(changed)
    try:
      arrays, fields = read(path)
    except UserError as error:
      assert "\n" not in str(error)
      refused += 1
      continue
    assert fields == FIELDS and all(np.array_equal(arrays[name], array) for name, array in ARRAYS.items()), bit
  assert refused > 0.95 * 8 * len(content), "the rest is white space, and the name of the digest"
  assert "has no digest: an earlier version wrote it" in caplog.text


def test_a_file_without_digest_is_read_with_a_warning(tmp_path, caplog, monkeypatch):
  monkeypatch.setattr(log, "propagate", True)
  feature_file.write_features(tmp_path / "file", ARRAYS, FIELDS)
  tensors = load_file(tmp_path / "file")
  del tensors["digest"]
  save_file(tensors, tmp_path / "file")
  assert read(tmp_path / "file")[1] == FIELDS
  assert "file has no digest" in caplog.text
