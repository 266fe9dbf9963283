"""Reads .safetensors files. The library checks the header; the tensors are views of the file."""

import collections
import json
import pathlib
from typing import Any

import ml_dtypes
import numpy as np

from clipvip_jax.utils.errors import UserError
from clipvip_jax.weights.mmap_file import map_file, printable_value

_DTYPES: dict[str, Any] = {
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
_LENGTH = 8  # bytes before the header, which say how long it is
_MOST_HEADER = 16 << 20  # bytes; parsed, they take up to thirty times as many. That of B/32 has 50 kB


def read(path: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
  """({name: array}, what the file says of itself); the arrays are read-only views of the file in its own types.

  Raises:
    UserError: the file is not there, damaged (a header that is no JSON, offsets that overlap, leave holes or reach
      outside, sizes that do not fit the shape), names a tensor twice, holds a type that is not supported, or no
      tensor. One line that names file and tensor.
  """
  data = map_file(path)
  try:
    return _tensors(data, path)
  except UserError as error:
    raise UserError(f"{path}: {error}") from error
  except Exception as error:  # whatever damage provokes in the library, in JSON or in NumPy
    reason = printable_value(str(error).strip() or type(error).__name__)
    raise UserError(f"{path} is no whole .safetensors file: {reason}") from error


def _tensors(data: Any, path: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
  from safetensors import safe_open

  length = int.from_bytes(data[:_LENGTH], "little")
  if length > _MOST_HEADER:
    raise UserError(
      f"is no whole .safetensors file: it claims a header of {length} bytes; at most {_MOST_HEADER} are read"
    )
  with safe_open(path, framework="np"):
    pass  # opening checks everything about the header
  header = json.loads(data[_LENGTH : _LENGTH + length], object_pairs_hook=_once)
  said = header.pop("__metadata__", None) or {}
  if not header:
    raise UserError("holds no tensor")
  return {name: _tensor(data, _LENGTH + length, name, entry) for name, entry in header.items()}, said


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  """A JSON object; two entries of one name would hide one another."""
  found = dict(pairs)
  if len(found) != len(pairs):
    name, _ = collections.Counter(name for name, _ in pairs).most_common(1)[0]
    raise UserError(f"the header names '{printable_value(name)}' twice")
  return found


def _tensor(data: Any, start: int, name: str, entry: dict[str, Any]) -> np.ndarray:
  if entry["dtype"] not in _DTYPES:
    raise UserError(f"{printable_value(name)} holds {entry['dtype']}; allowed: {', '.join(_DTYPES)}")
  dtype = np.dtype(_DTYPES[entry["dtype"]])
  begin, end = entry["data_offsets"]
  try:
    return np.frombuffer(data, dtype, (end - begin) // dtype.itemsize, start + begin).reshape(entry["shape"])
  except ValueError as error:  # more dimensions, or larger ones around a zero, than NumPy has
    raise UserError(f"{printable_value(name)} has shape {printable_value(entry['shape'])}: {error}") from error
