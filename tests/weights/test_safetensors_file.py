"""Safetensors files: read bit for bit without a copy, and refused in one line where they are invalid."""

import json
import struct

import numpy as np
import pytest
import torch_zip as tz
from project_paths import GOLDEN
from safetensors.numpy import load_file, save, save_file

from clipvip_jax.utils.errors import UserError
from clipvip_jax.weights import safetensors_file

VALID = save({"a": np.arange(4, dtype=np.float32), "b": np.ones((2, 2), np.float32)})


def header(entries, data=b"\0" * 32, length=None):
  content = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
  return struct.pack("<Q", len(content) if length is None else length) + content + data


def entry(begin, end, shape=(4,), dtype="F32"):
  return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


FILES = {
  "overlap": (header({"a": entry(0, 16), "b": entry(8, 24)}, b"\0" * 24), "corrupt or not a .safetensors file"),
  "same bytes": (header({"a": entry(0, 16), "b": entry(0, 16)}, b"\0" * 16), "corrupt or not a .safetensors file"),
  "hole": (header({"a": entry(0, 16), "b": entry(20, 36)}, b"\0" * 36), "corrupt or not a .safetensors file"),
  "outside": (header({"a": entry(0, 16)}, b"\0" * 8), "corrupt or not a .safetensors file"),
  "left over": (header({"a": entry(0, 16)}, b"\0" * 64), "corrupt or not a .safetensors file"),
  "negative": (header({"a": entry(-16, 0)}), "corrupt or not a .safetensors file"),
  "backwards": (header({"a": entry(16, 0)}), "corrupt or not a .safetensors file"),
  "wrong size": (header({"a": entry(0, 32, (4,))}), "corrupt or not a .safetensors file"),
  "overflow": (header({"a": entry(0, 32, (2**40, 2**40))}), "corrupt or not a .safetensors file"),
  "unknown type": (header({"a": entry(0, 32, (8,), "F31")}), "corrupt or not a .safetensors file"),
  "unsupported type": (header({"a": entry(0, 32, (32,), "F8_E4M3")}), "a has dtype F8_E4M3; allowed: F64"),
  "twice": (
    header(
      b'{"a":' + json.dumps(entry(0, 32, (8,))).encode() + b',"a":' + json.dumps(entry(0, 32, (8,))).encode() + b"}"
    ),
    r"contains 'a' twice\); download",
  ),
  "many dimensions": (header({"a": entry(0, 32, (1,) * 70 + (8,))}), "a has shape .*dimension"),
  "wide nothing": (header({"a": entry(0, 32, (8,)), "z": entry(32, 32, (0, 2**62))}), "z has shape .*too big"),
  "name of two lines": (header({"a\nb": entry(0, 32, (32,), "F8_E4M3")}), r"a\\nb has dtype F8_E4M3"),
  "no tensors": (header({"__metadata__": {"format": "pt"}}, b""), "contains no tensors"),
  "metadata of numbers": (
    header({"__metadata__": {"format": 1}, "a": entry(0, 32, (8,))}),
    "corrupt or not a .safetensors file",
  ),
  "no offsets": (header({"a": {"dtype": "F32", "shape": [8]}}), "corrupt or not a .safetensors file"),
  "fraction": (header({"a": entry(0, 32, (8.5,))}), "corrupt or not a .safetensors file"),
  "no JSON": (header(b"{nothing}"), "corrupt or not a .safetensors file"),
  "list": (header([1, 2]), "corrupt or not a .safetensors file"),
  "no entry": (header({"a": 3}), "corrupt or not a .safetensors file"),
  "no text": (header(b"\xff\xfe\xfd"), "corrupt or not a .safetensors file"),
  "long header": (header({}, length=10**15), "header of 1000000000000000 bytes; at most"),
  "header past the end": (header({"a": entry(0, 32, (8,))}, length=10**4), "corrupt or not a .safetensors file"),
  "deep header": (header(b"[" * 10**5), "corrupt or not a .safetensors file"),
  "cut header": (VALID[:20], "corrupt or not a .safetensors file"),
  "cut length": (VALID[:5], "corrupt or not a .safetensors file"),
  "cut data": (VALID[:-1], "corrupt or not a .safetensors file"),
  "pickle": (tz.calls("os", "system", tz.text("touch canary")), "corrupt or not a .safetensors file"),
  "text": (b"version 1 of the weights\n", "corrupt or not a .safetensors file"),
  "pointer": (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer, not its content"),
  "empty": (b"", "is empty"),
}


@pytest.mark.parametrize("name", FILES)
def test_invalid_file_is_refused(tmp_path, name):
  content, message = FILES[name]
  path = tmp_path / "weights.safetensors"
  path.write_bytes(content)
  with pytest.raises(UserError, match=message) as refused:
    safetensors_file.read(path)
  assert str(path) in str(refused.value) and "\n" not in str(refused.value)


def test_published_file_is_read_bit_for_bit_without_a_copy():
  arrays, _ = safetensors_file.read(GOLDEN / "vip_tiny.safetensors")
  expected = load_file(GOLDEN / "vip_tiny.safetensors")
  assert arrays.keys() == expected.keys()
  for key, value in expected.items():
    assert arrays[key].dtype == value.dtype and not arrays[key].flags.writeable
    np.testing.assert_array_equal(arrays[key], value, key)


def test_metadata_is_returned(tmp_path):
  save_file({"a": np.zeros(1, np.float32)}, tmp_path / "x.safetensors", {"format": "pt"})
  assert safetensors_file.read(tmp_path / "x.safetensors")[1] == {"format": "pt"}


def test_changed_byte_is_refused_or_changes_only_values(tmp_path):
  path = tmp_path / "weights.safetensors"
  for position in range(len(VALID)):
    for byte in (0, 0xFF, VALID[position] ^ 1, VALID[position] ^ 0x20):
      path.write_bytes(VALID[:position] + bytes([byte]) + VALID[position + 1 :])
      try:
        arrays, _ = safetensors_file.read(path)
      except UserError as error:
        assert str(error).startswith(str(path)) and "\n" not in str(error)
      else:
        assert sum(array.nbytes for array in arrays.values()) <= len(VALID)


def test_header_has_the_bytes_of_the_library():
  arrays = {"b": np.arange(3), "c": np.ones((2, 3), np.float32), "\u00e9": np.zeros((0, 4), np.float32)}
  header = safetensors_file.format_header({name: (array.dtype, array.shape) for name, array in arrays.items()})
  assert save(arrays) == header + b"".join(array.tobytes() for array in arrays.values())
