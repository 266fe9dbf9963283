"""PyTorch's .pt files: read bit for bit without a copy, and refused in one line where they are invalid."""

import ml_dtypes
import numpy as np
import pytest
import torch_zip as tz
from project_paths import GOLDEN
from safetensors.numpy import load_file

from clipvip_jax.utils.errors import UserError
from clipvip_jax.weights import torch_file


def test_published_file_is_read_bit_for_bit_without_a_copy():
  arrays, expected = torch_file.read(GOLDEN / "vip_tiny.pt"), load_file(GOLDEN / "vip_tiny.safetensors")
  assert arrays.keys() == expected.keys()
  for key, value in expected.items():
    assert arrays[key].dtype == value.dtype and not arrays[key].flags.writeable
    np.testing.assert_array_equal(arrays[key], value, key)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.int64])
def test_other_dtypes_are_read(tmp_path, dtype):
  array = np.arange(6).reshape(2, 3).astype(dtype)
  arrays = torch_file.read(tz.save(tmp_path / "x.pt", {"a": array}))
  assert arrays["a"].dtype == dtype
  np.testing.assert_array_equal(arrays["a"], array)


def test_transposed_shared_and_empty_tensors_are_read(tmp_path):
  items = {
    "t": tz.tensor(tz.FOUR_FLOATS, 0, (2, 2), (1, 2)),
    "same": tz.tensor(tz.FOUR_FLOATS, 0, (4,), (1,)),
    "parameter": tz.call(
      tz.named("torch._utils", "_rebuild_parameter"),
      tz.FOUR_FLOATS_TENSOR,
      b"\x88",
      tz.named("collections", "OrderedDict") + b")R",
    ),
    "row": tz.tensor(tz.FOUR_FLOATS, 0, (1, 4), (10**9, 1)),  # the stride of an axis of size 1 is irrelevant
    "part": tz.tensor(tz.FOUR_FLOATS, 1, (2,), (1,)),
    "scalar": tz.tensor(tz.FOUR_FLOATS, 3, (), ()),
    "none": tz.tensor(tz.FOUR_FLOATS, 0, (0, 5), (5, 1)),
  }
  arrays = torch_file.read(tz.archive(tmp_path / "x.pt", tz.stream(tz.mapping(items)), tz.FOUR_FLOATS_DATA))
  np.testing.assert_array_equal(arrays["t"], [[0, 2], [1, 3]])
  np.testing.assert_array_equal(arrays["part"], [1, 2])
  for name, shape in {"same": (4,), "parameter": (4,), "row": (1, 4)}.items():
    assert arrays[name].shape == shape
    np.testing.assert_array_equal(arrays[name].ravel(), np.arange(4))
  assert arrays["scalar"] == 3 and arrays["none"].shape == (0, 5)
  assert not any(array.flags.writeable for array in arrays.values())


def test_expanded_tensors_are_read(tmp_path):
  items = {
    "value": tz.tensor(tz.FOUR_FLOATS, 2, (3, 5), (0, 0)),
    "rows": tz.tensor(tz.FOUR_FLOATS, 0, (3, 4), (0, 1)),
    "columns": tz.tensor(tz.FOUR_FLOATS, 0, (4, 3), (1, 0)),
    "windows": tz.tensor(tz.FOUR_FLOATS, 0, (3, 2), (1, 1)),
  }
  arrays = torch_file.read(tz.archive(tmp_path / "x.pt", tz.stream(tz.mapping(items)), tz.FOUR_FLOATS_DATA))
  row = np.arange(4)
  np.testing.assert_array_equal(arrays["value"], np.full((3, 5), 2))
  np.testing.assert_array_equal(arrays["rows"], [row] * 3)
  np.testing.assert_array_equal(arrays["columns"], np.transpose([row] * 3))
  np.testing.assert_array_equal(arrays["windows"], [[0, 1], [1, 2], [2, 3]])
  assert not any(array.flags.writeable for array in arrays.values())


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model", "module"])
def test_state_dict_of_a_training_checkpoint_is_read(tmp_path, key):
  inner = tz.mapping({"a": tz.tensor(tz.FOUR_FLOATS, 0, (4,), (1,))})
  pkl = tz.stream(tz.mapping({"epoch": tz.number(1), "args": b"]" + tz.number(2) + b"a", key: inner}))
  assert list(torch_file.read(tz.archive(tmp_path / "x.pt", pkl, tz.FOUR_FLOATS_DATA))) == ["a"]


FILES = {
  "storage missing": (tz.with_tensor(0, (4,), (1,), data={}), "storage '0' is missing in the file; download it again"),
  "storage elsewhere": (tz.with_tensor(0, (4,), (1,), store=tz.storage("../0", 4)), r"'\.\./0' is missing in the file"),
  "storage short": (tz.with_tensor(0, (4,), (1,), data={"0": b"x" * 12}), "has 12 bytes, expected 4 x 4; download"),
  "storage long": (tz.with_tensor(0, (4,), (1,), data={"0": b"x" * 20}), "has 20 bytes, expected 4 x 4; download"),
  "storage negative": (tz.with_tensor(0, (4,), (1,), store=tz.storage("0", -4)), "expected -4 x 4"),
  "too large": (tz.with_tensor(0, (5,), (1,)), "outside of its storage of 4 elements"),
  "offset outside": (tz.with_tensor(1, (4,), (1,)), "outside of its storage of 4 elements"),
  "stride outside": (tz.with_tensor(0, (2,), (9,)), "outside of its storage of 4 elements"),
  "expansion": (
    tz.with_tensor(0, (10**6, 10**6), (0, 0)),
    "1 expanded tensors have 4000000000000 bytes, more than the",
  ),
  "expansion of a row": (
    tz.with_tensor(0, (10**6, 4), (0, 1)),
    r"is a of size \(1000000, 4\); save contiguous tensors",
  ),
  "many expansions": (
    tz.with_pickle(
      tz.stream(tz.mapping({str(i): tz.tensor(tz.FOUR_FLOATS, 0, (250,), (0,)) for i in range(200)})),
    ),
    "200 expanded tensors have 200000 bytes, more than the file",
  ),
  "expansion outside": (tz.with_tensor(4, (2,), (0,)), "outside of its storage of 4 elements"),
  "expansion beyond NumPy": (tz.with_tensor(0, (2**30,) * 4, (0,) * 4), "a has offset 0, size .* too"),
  "negative size": (tz.with_tensor(0, (-1,), (1,)), r"size \(-1,\)"),
  "negative stride": (tz.with_tensor(3, (4,), (-1,)), r"stride \(-1,\)"),
  "negative offset": (tz.with_tensor(-1, (4,), (1,)), "offset -1"),
  "ranks differ": (tz.with_tensor(0, (4,), (1, 1)), "as many strides as sizes"),
  "many sides": (tz.with_tensor(0, (1,) * 70, (1,) * 70), "more than 64 axes"),
  "wide nothing": (tz.with_tensor(0, (0, *[2**30] * 4), (1,) * 5), "a has .*too"),
  "side of text": (
    tz.with_pickle(
      tz.stream(
        tz.mapping({"a": tz.FOUR_FLOATS_TENSOR.replace(tz.tuple_of(tz.number(4)), tz.tuple_of(tz.text("4")), 1)})
      )
    ),
    "a has an offset, size or stride that is not an integer",
  ),
  "side that is true": (
    tz.with_pickle(
      tz.stream(tz.mapping({"a": tz.FOUR_FLOATS_TENSOR.replace(tz.tuple_of(tz.number(4)), tz.tuple_of(b"\x88"), 1)}))
    ),
    "size or stride that is not an integer",
  ),
  "no tensor": (tz.with_pickle(tz.stream(tz.mapping({"weight": tz.number(3)}))), "weight is int, expected a tensor"),
  "no text": (
    tz.with_pickle(tz.stream(b"}" + tz.number(1) + tz.tensor(tz.FOUR_FLOATS, 0, (4,), (1,)) + b"s")),
    "a key of type int, expected a string",
  ),
  "named twice": (
    tz.with_pickle(tz.stream(b"}(" + (tz.text("a") + tz.FOUR_FLOATS_TENSOR) * 2 + b"u")),
    "the state dict contains 'a' twice",
  ),
  "two state dicts": (
    tz.with_pickle(tz.stream(b"}(" + (tz.text("model") + tz.mapping({"a": tz.FOUR_FLOATS_TENSOR})) * 2 + b"u")),
    "contains 'model' twice",
  ),
  "name of two lines": (tz.with_pickle(tz.stream(tz.mapping({"a\nb": tz.number(3)}))), r"a\\nb is int"),
  "name without end": (tz.with_pickle(tz.stream(tz.mapping({"a" * 10**6: tz.number(3)}))), r"a{150,160}\.\.\. is int"),
  "half a character": (tz.with_pickle(tz.stream(b"}X\3\0\0\0\xed\xa0\x80" + tz.number(3) + b"s")), r"\\ud800 is int"),
  "no tensors": (tz.with_pickle(tz.stream(b"}")), "contains no tensors"),
  "deep key": (tz.with_pickle(b"\x80\x02})" + b"\x85" * 10**5 + b"Ns."), "a key of type tuple, expected a string"),
  "doubling key": (
    tz.with_pickle(b"\x80\x02})" + b"q\x00h\x00\x86" * 60 + b"Ns."),
    "a key of type tuple, expected a string",
  ),
  "doubling size": (
    tz.with_pickle(
      tz.stream(
        tz.mapping({"a": tz.FOUR_FLOATS_TENSOR.replace(tz.tuple_of(tz.number(4)), b")" + b"q\x00h\x00\x86" * 60, 1)})
      ),
    ),
    "size or stride that is not an integer",
  ),
  "far memo": (tz.with_pickle(b"\x80\x02]r\xff\xff\xff\xff."), "contains list, expected a state dict"),
  "no dict": (tz.with_pickle(tz.stream(b"]")), "contains list, expected a state dict"),
  "pickle is a zip": (tz.zip_as_pickle, "corrupt or not a PyTorch file"),
  "nested zip": (tz.nested_zip, r"0 entries NAME/data\.pkl"),
  "no pickle": (lambda path: tz.archive(path, None, tz.FOUR_FLOATS_DATA), r"0 entries NAME/data\.pkl"),
  "two pickles": (tz.with_entries(("other/data.pkl", b"x")), r"2 entries NAME/data\.pkl"),
  "large pickle": (lambda path: tz.archive(path, b"\0" * (65 << 20)), r"data\.pkl has 68157440 bytes"),
  "deeper pickle": (lambda path: tz.archive(path, b"x", root="a/b"), "expected one at the top"),
  "big endian": (tz.with_entries(("archive/byteorder", b"big")), "byteorder is not 'little'"),
  "TorchScript": (tz.with_entries(("archive/code/__torch__.py", b"x")), r"TorchScript archive.*state_dict\(\)"),
  "constants": (tz.with_entries(("archive/constants.pkl", b"x")), "TorchScript archive"),
  "legacy": (lambda path: path.write_bytes(tz.legacy()), r"before 1\.6.*state_dict\(\)"),
  "text": (lambda path: path.write_text("not found"), "not a zip archive"),
  "is empty": (lambda path: path.write_bytes(b""), "is empty"),
}


@pytest.mark.parametrize("name", FILES)
def test_invalid_file_is_refused(tmp_path, monkeypatch, name):
  monkeypatch.chdir(tmp_path)
  tz.assert_refused(tmp_path, *FILES[name])


def test_changed_byte_is_refused_or_changes_only_values(tmp_path):
  path = tmp_path / "weights.pt"
  valid = tz.save(path, {"a": np.ones((2, 2), np.float32)}).read_bytes()
  for position in range(len(valid)):
    for byte in (0, 0xFF, valid[position] ^ 1, valid[position] ^ 0x20):
      path.write_bytes(valid[:position] + bytes([byte]) + valid[position + 1 :])
      try:
        arrays = torch_file.read(path)
      except UserError as error:
        assert str(error).startswith(str(path)) and "\n" not in str(error)
      else:
        assert sum(array.nbytes for array in arrays.values()) <= len(valid)
