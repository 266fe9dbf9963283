"""PyTorch's files written without PyTorch.

PyTorch 2.14.1 loaded the file of `test_file_is_the_one_that_pytorch_loaded` with torch.load(weights_only=True), also
memory-mapped, with equal names, types, shapes and values.
"""

import hashlib
import pickletools
import zipfile

import ml_dtypes
import numpy as np
import pytest

from clipvip_jax.utils.errors import UserError
from clipvip_jax.weights import tensor_files, torch_file, torch_writer

# Opcodes that torch.load(weights_only=True) accepts and this writer needs.
OPCODES = {"PROTO", "EMPTY_DICT", "MARK", "BINUNICODE", "GLOBAL", "BININT", "TUPLE", "BINPERSID", "NEWFALSE"}
OPCODES |= {"EMPTY_TUPLE", "REDUCE", "SETITEMS", "STOP"}
TENSORS = {
  "matrix": np.arange(6, dtype=np.float32).reshape(2, 3),
  "scalar": np.array(4.6, np.float32),
  "clipmodel.vision_model.embeddings.added_cls": np.zeros((0, 8), np.float32),
  "position_ids": np.arange(5)[None],
  "half": np.array([1, 2], np.float16),
  "brain": np.array([1, 2], ml_dtypes.bfloat16),
  "é": np.array([[[1.5]]]),
}


def write(path, tensors=TENSORS, metadata=None):
  torch_writer.write(path, tensors, metadata or {})
  return path


def test_file_is_read_back_bit_for_bit(tmp_path):
  metadata = {"clipvip_jax.temporal": "full"}
  tensors, read_metadata = tensor_files.read(write(tmp_path / "x.pt", metadata=metadata))
  assert list(tensors) == list(TENSORS) and read_metadata == metadata
  for name, x in TENSORS.items():
    assert tensors[name].dtype == x.dtype
    np.testing.assert_array_equal(tensors[name], x, name)


def test_tensor_that_is_not_contiguous_is_written_in_order(tmp_path):
  x = np.arange(6, dtype=np.float32).reshape(2, 3).T
  np.testing.assert_array_equal(torch_file.read(write(tmp_path / "x.pt", {"a": x, "b": x[::2]}))["a"], x)


def test_archive_has_the_entries_of_pytorch_uncompressed_and_aligned(tmp_path):
  path = write(tmp_path / "x.pt")
  with zipfile.ZipFile(path) as archive:
    entries = {info.filename: info for info in archive.infolist()}
    assert archive.testzip() is None
    assert archive.read("archive/version") == b"3\n" and archive.read("archive/byteorder") == b"little"
    assert archive.read("archive/data/0") == TENSORS["matrix"].tobytes()
  assert next(iter(entries)) == "archive/data.pkl" and {f"archive/data/{i}" for i in range(7)} < entries.keys()
  data = path.read_bytes()
  for info in entries.values():
    names = data[info.header_offset + 26 : info.header_offset + 30]
    content = info.header_offset + 30 + int.from_bytes(names[:2], "little") + int.from_bytes(names[2:], "little")
    assert info.compress_type == zipfile.ZIP_STORED and content % 64 == 0


def test_pickle_has_no_opcodes_or_functions_but_those_of_tensors(tmp_path):
  with zipfile.ZipFile(write(tmp_path / "x.pt")) as archive:
    operations = [(code.name, argument) for code, argument, _ in pickletools.genops(archive.read("archive/data.pkl"))]
  assert {name for name, _ in operations} <= OPCODES
  names = {argument for name, argument in operations if name == "GLOBAL"}
  storages = {f"torch {name}Storage" for name in ("Float", "Long", "Half", "BFloat16", "Double")}
  assert names == storages | {"torch._utils _rebuild_tensor_v2", "collections OrderedDict"}


def test_file_is_the_one_that_pytorch_loaded(tmp_path):
  with zipfile.ZipFile(write(tmp_path / "x.pt")) as archive:
    digest = hashlib.sha256(b"".join(archive.read(info) for info in archive.infolist()))
  assert digest.hexdigest() == "ca5293789d773f9e6284fa757a57658a25f1ec051f7051968754641615c7fbfd"


def test_equal_tensors_give_equal_files(tmp_path):
  assert write(tmp_path / "x.pt").read_bytes() == write(tmp_path / "y.pt").read_bytes()


@pytest.mark.parametrize("content", [b"[]", b"{", b'{"a": 1, "a": 2}'])
def test_corrupt_metadata_is_refused(tmp_path, content):
  path = write(tmp_path / "x.pt")
  with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "y.pt", "w") as new:
    for info in old.infolist():
      new.writestr(info.filename, content if info.filename.endswith(".json") else old.read(info))
  with pytest.raises(UserError, match=r"y\.pt: clipvip_jax\.json is .*; write"):
    tensor_files.read(tmp_path / "y.pt")
