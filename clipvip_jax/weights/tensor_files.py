"""Tensors of one file, whose format its first bytes determine, or of HuggingFace's sharded files.

A sharded model is a folder of several files and an index, `model.safetensors.index.json` or
`pytorch_model.bin.index.json`, whose `weight_map` names the file of each tensor.
"""

import io
import pathlib
from typing import Any

import numpy as np

from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import printable
from clipvip_jax.weights import json_object, safetensors_file, torch_file

INDEX_SUFFIX = ".index.json"
# Suffixes of files of weights; a file with another name is read if its first bytes are those of a known format.
SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".pth.tar")
_MAX_INDEX = 16 << 20  # bytes; the index of a model with 100,000 tensors has 10 MB
_MAX_NAME = 255  # bytes, of file systems
_LISTED = 5  # names in a message
_TEXT_LIMIT = 160  # characters of a name from the file in a message


def is_weights(path: pathlib.Path) -> bool:
  """Returns whether an existing file is an index or begins like a file of weights."""
  start = _first_bytes(path)
  return path.name.endswith(INDEX_SUFFIX) or _is_safetensors(start) or torch_file.is_torch(start)


def read(path: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
  """Reads a file of weights, or all shards of an index.

  Returns:
    ({name: array}, metadata); the arrays are read-only views of the files in their own dtypes.

  Raises:
    UserError: a file is missing, corrupt or of another format; or shards and index contradict each other.
  """
  if path.name.endswith(INDEX_SUFFIX):
    return _read_shards(path)
  start = _first_bytes(path)
  if not torch_file.is_torch(start) and (_is_safetensors(start) or path.suffix == ".safetensors"):
    return safetensors_file.read(path)
  return torch_file.read(path), torch_file.read_metadata(path)


def shard_names(index: pathlib.Path) -> list[str]:
  """Returns the file names of all shards of an index, sorted.

  Raises:
    UserError: the index is invalid.
  """
  return sorted(set(_weight_map(index).values()))


def _first_bytes(path: pathlib.Path) -> bytes:
  """Returns 16 bytes, fewer if the file is shorter; none where the path is not a readable file."""
  try:
    with path.open("rb") if path.is_file() else io.BytesIO() as file:
      return file.read(16)
  except OSError:
    return b""


def _is_safetensors(start: bytes) -> bool:
  return start[8:9] == b"{"


def _read_shards(index: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
  weight_map = _weight_map(index)
  names = sorted(set(weight_map.values()))
  missing = [name for name in names if not (index.parent / name).is_file()]
  if missing:
    raise UserError(
      f"{index}: {len(missing)} of {len(names)} shards are missing: {_listed(missing)}; download them into the folder"
    )
  tensors: dict[str, np.ndarray] = {}
  shards: dict[str, str] = {}
  metadata: dict[str, str] = {}
  for shard in names:
    content, shard_metadata = read(index.parent / shard)
    metadata |= shard_metadata
    for name, tensor in content.items():
      if name in shards:
        raise UserError(
          f"{index}: {_printable(name)} is in two shards, {shards[name]} and {shard}; download them again"
        )
      if weight_map.get(name) != shard:
        indexed = f"in {weight_map[name]}" if name in weight_map else "in no shard"
        raise UserError(
          f"{index}: {_printable(name)} is in {shard}, according to the index {indexed}; download all shards again"
        )
      tensors[name], shards[name] = tensor, shard
  absent = [f"{_printable(name)} ({shard})" for name, shard in weight_map.items() if name not in tensors]
  if absent:
    raise UserError(f"{index}: {len(absent)} tensors are in no shard: {_listed(absent)}; download their shards again")
  return tensors, metadata


def _weight_map(index: pathlib.Path) -> dict[str, str]:
  """Returns {tensor name: file name} of an index; every file lies in the folder of the index."""
  try:
    if index.stat().st_size > _MAX_INDEX:
      raise UserError(f"more than {_MAX_INDEX} bytes; download it again")
    content = json_object.read(index)
    weight_map: Any = content["weight_map"]
  except UserError as error:
    raise UserError(f"{index}: {error}") from error
  except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
    raise UserError(
      f"{index} is not an index of sharded weights ({type(error).__name__} {_printable(error)}); download it again"
    ) from error
  if type(weight_map) is not dict or not weight_map:
    raise UserError(f"{index}: weight_map is not an object of tensor and file names; download it again")
  for name, shard in weight_map.items():
    if type(shard) is not str or not _is_file_name(shard):
      raise UserError(
        f"{index}: the shard of {_printable(name)}, {_printable(repr(shard))}, is not the name of a file in the same"
        " folder; download the index again"
      )
  return weight_map


def _is_file_name(name: str) -> bool:
  plain = name not in ("", ".", "..") and not any(x in name for x in ("/", "\\", "\0"))
  return plain and len(name.encode(errors="replace")) <= _MAX_NAME and not name.endswith(INDEX_SUFFIX)


def _listed(names: list[str]) -> str:
  return ", ".join(map(_printable, names[:_LISTED])) + (", ..." if len(names) > _LISTED else "")


def _printable(value: object) -> str:
  return printable(value, _TEXT_LIMIT)
