"""PyTorch's .pt files, written without PyTorch as `torch.save` writes a dict of tensors; see torch_file.py.

Python's pickler would import the functions that a pickle of tensors names, so the opcodes are written here: those that
`torch.load(weights_only=True)` accepts, in protocol 2.
"""

import json
import pathlib
import pickle
import struct
import zipfile
from collections.abc import Mapping
from typing import BinaryIO

import numpy as np

from clipvip_jax.weights import tensor_pickle
from clipvip_jax.weights.torch_file import METADATA_ENTRY

_ROOT = "archive"
_VERSION = b"3\n"  # of PyTorch's file format
_ALIGNMENT = 64  # bytes: the content of entries begins at multiples of it, which PyTorch maps into memory
_HEADER_SIZE = 30  # bytes of a local header before the name
_PADDING = 0x4246  # type of the extra field with which PyTorch aligns entries
_STORAGES = {np.dtype(dtype): name for name, dtype in tensor_pickle.STORAGE_DTYPES.items()}


def write(path: pathlib.Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
  """Writes {name: array} as a state dict.

  Args:
    path: of the new file.
    tensors: arrays of any dtype of tensor_pickle.STORAGE_DTYPES.
    metadata: kept in an entry of its own, which PyTorch ignores.

  Raises:
    OSError: the file cannot be written.
  """
  with path.open("wb") as file, zipfile.ZipFile(file, "w") as archive:
    _add(archive, file, "data.pkl", _program(tensors))
    _add(archive, file, "byteorder", b"little")
    for key, x in enumerate(tensors.values()):
      _add(archive, file, f"data/{key}", x.astype(x.dtype.newbyteorder("<"), copy=False).tobytes())
    _add(archive, file, METADATA_ENTRY, json.dumps(dict(metadata)).encode())
    _add(archive, file, "version", _VERSION)


def _add(archive: zipfile.ZipFile, file: BinaryIO, name: str, content: bytes) -> None:
  """Appends an uncompressed entry, with aligned content and without a time, so that equal weights give equal files."""
  entry = zipfile.ZipInfo(f"{_ROOT}/{name}")
  padding = -(file.tell() + _HEADER_SIZE + len(entry.filename) + 4) % _ALIGNMENT
  entry.extra = struct.pack("<HH", _PADDING, padding) + b"Z" * padding
  archive.writestr(entry, content)


def _program(tensors: Mapping[str, np.ndarray]) -> bytes:
  """Returns the pickle of a dict of contiguous tensors, each with a storage of its own."""
  items = [_text(name) + _tensor(str(key), x) for key, (name, x) in enumerate(tensors.items())]
  return b"".join([pickle.PROTO, b"\2", pickle.EMPTY_DICT, pickle.MARK, *items, pickle.SETITEMS, pickle.STOP])


def _tensor(key: str, x: np.ndarray) -> bytes:
  """Returns the call of torch._utils._rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks)."""
  strides = [int(np.prod(x.shape[axis + 1 :], initial=1)) for axis in range(x.ndim)]
  reference = _tuple(_text("storage"), _global(_STORAGES[x.dtype]), _text(key), _text("cpu"), _integer(x.size))
  storage = reference + pickle.BINPERSID
  hooks = _global("collections.OrderedDict") + pickle.EMPTY_TUPLE + pickle.REDUCE
  sizes = (_tuple(*map(_integer, numbers)) for numbers in (x.shape, strides))
  arguments = _tuple(storage, _integer(0), *sizes, pickle.NEWFALSE, hooks)
  return _global(tensor_pickle.REBUILD_TENSOR) + arguments + pickle.REDUCE


def _global(name: str) -> bytes:
  module, _, attribute = name.rpartition(".")
  return pickle.GLOBAL + f"{module}\n{attribute}\n".encode()


def _tuple(*items: bytes) -> bytes:
  return b"".join([pickle.MARK, *items, pickle.TUPLE])


def _text(value: str) -> bytes:
  encoded = value.encode()
  return pickle.BINUNICODE + struct.pack("<I", len(encoded)) + encoded


def _integer(value: int) -> bytes:
  if value < 2**31:
    return pickle.BININT + struct.pack("<i", value)
  encoded = pickle.encode_long(value)
  return pickle.LONG1 + bytes([len(encoded)]) + encoded
