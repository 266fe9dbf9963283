""".safetensors files: the library validates the header, tensors are read-only views of the file."""

import json
import math
import mmap
import pathlib
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import DTypeLike

from clipvip_jax.utils.errors import UserError, first_line
from clipvip_jax.utils.log import printable
from clipvip_jax.weights import json_object
from clipvip_jax.weights.mmap_file import DOWNLOAD_AGAIN, map_file

_DTYPES: dict[str, DTypeLike] = {
  "F64": np.float64,
  "F32": np.float32,
  "F16": np.float16,
  "BF16": ml_dtypes.bfloat16,
  "I64": np.int64,
  "I32": np.int32,
  "I16": np.int16,
  "I8": np.int8,
  "U8": np.uint8,
  "BOOL": np.bool_,
}
_PREFIX = 8  # bytes before the header that hold its length
# Bytes of the header; parsing takes up to thirty times as much memory. B/32 has 50 kB.
_MAX_HEADER = 16 << 20
_TEXT_LIMIT = 160  # characters of a name from the file in a message


def read(path: pathlib.Path, remedy: str = DOWNLOAD_AGAIN) -> tuple[dict[str, np.ndarray], dict[str, str]]:
  """Returns ({name: array}, metadata); the arrays are read-only views of the file in its own dtypes.

  Args:
    path: of the file.
    remedy: what to do about a corrupt file, for the message.

  Raises:
    UserError: the file is missing or corrupt (header is not JSON; offsets overlap, leave gaps or lie outside; sizes
      contradict shapes), contains a tensor twice, an unsupported dtype, or no tensors. The message is one line that
      names file and tensor.
  """
  data = map_file(path, remedy)
  try:
    return _load(data, path)
  except UserError as error:
    raise UserError(f"{path}: {error}") from error
  except Exception as error:  # from the library, JSON and NumPy on corrupt input
    reason = printable(first_line(error), _TEXT_LIMIT)
    raise UserError(f"{path} is corrupt or not a .safetensors file ({reason}); {remedy}") from error


def _load(data: mmap.mmap, path: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
  from safetensors import safe_open

  length = int.from_bytes(data[:_PREFIX], "little")
  if length > _MAX_HEADER:
    raise UserError(
      f"corrupt or not a .safetensors file: header of {length} bytes; at most {_MAX_HEADER} are supported"
    )
  with safe_open(path, framework="np"):
    pass  # opening validates the header
  header = json_object.parse(data[_PREFIX : _PREFIX + length])
  metadata = header.pop("__metadata__", None) or {}
  if not header:
    raise UserError("contains no tensors; pass a file of weights")
  return {name: _tensor(data, _PREFIX + length, name, entry) for name, entry in header.items()}, metadata


def _tensor(data: mmap.mmap, start: int, name: str, entry: dict[str, Any]) -> np.ndarray:
  """Returns the view that a header entry describes; `start` is the offset of the data section."""
  shown = printable(name, _TEXT_LIMIT)
  if entry["dtype"] not in _DTYPES:
    raise UserError(f"{shown} has dtype {entry['dtype']}; allowed: {', '.join(_DTYPES)}")
  dtype = np.dtype(_DTYPES[entry["dtype"]])
  begin, end = entry["data_offsets"]
  try:
    return np.frombuffer(data, dtype, (end - begin) // dtype.itemsize, start + begin).reshape(entry["shape"])
  except ValueError as error:  # more axes than NumPy has, or an empty array with sizes beyond its limits
    raise UserError(f"{shown} has shape {printable(entry['shape'], _TEXT_LIMIT)}: {error}") from error


def format_header(tensors: Mapping[str, tuple[np.dtype, tuple[int, ...]]]) -> bytes:
  """Returns the header of a file with tensors of these names, types and shapes, whose contents follow in this order.

  It has the bytes that the library writes, which holds all tensors in memory.
  """
  names = {np.dtype(dtype): name for name, dtype in _DTYPES.items()}
  header, end = {}, 0
  for name, (dtype, shape) in tensors.items():
    begin, end = end, end + math.prod(shape) * dtype.itemsize
    header[name] = {"dtype": names[dtype], "shape": list(shape), "data_offsets": [begin, end]}
  text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
  text += b" " * (-len(text) % _PREFIX)
  return len(text).to_bytes(_PREFIX, "little") + text
