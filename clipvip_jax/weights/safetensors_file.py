"""Reads .safetensors files. The library checks the header; the tensors are views of the file."""

import json
import pathlib
from typing import Any

import ml_dtypes
import numpy as np

from clipvip_jax.errors import UserError
from clipvip_jax.weights.mapped import map_file

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


def read(path: pathlib.Path) -> dict[str, np.ndarray]:
  """{name: array}, read-only views of the file in its own types.

  Raises:
    UserError: the file is not there, damaged (a header that is no JSON, offsets that overlap, leave holes or reach
      outside, sizes that do not fit the shape), names a tensor twice, or holds a type that is not supported.
  """
  from safetensors import SafetensorError, safe_open

  data = map_file(path)
  try:
    with safe_open(path, framework="np"):
      pass  # opening checks everything about the header
    length = int.from_bytes(data[:_LENGTH], "little")
    header = json.loads(data[_LENGTH : _LENGTH + length], object_pairs_hook=_once)
  except UserError as error:
    raise UserError(f"{path}: {error}") from error
  except (SafetensorError, OSError, ValueError, RecursionError, MemoryError) as error:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    raise UserError(f"{path} is no whole .safetensors file: {reason}") from error
  return {
    name: _tensor(data, _LENGTH + length, name, entry, path) for name, entry in header.items() if name != "__metadata__"
  }


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  """A JSON object; two entries of one name would hide one another."""
  found = dict(pairs)
  if len(found) != len(pairs):
    names = [name for name, _ in pairs]
    raise UserError(f"the header names {next(n for n in names if names.count(n) > 1)!r} twice")
  return found


def _tensor(data: Any, start: int, name: str, entry: dict[str, Any], path: pathlib.Path) -> np.ndarray:
  if entry["dtype"] not in _DTYPES:
    raise UserError(f"{path}: {name} holds {entry['dtype']}; allowed: {', '.join(_DTYPES)}")
  dtype = np.dtype(_DTYPES[entry["dtype"]])
  begin, end = entry["data_offsets"]
  return np.frombuffer(data, dtype, (end - begin) // dtype.itemsize, start + begin).reshape(entry["shape"])
