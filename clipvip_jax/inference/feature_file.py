"""Feature files: named arrays and JSON fields in one .safetensors file.

Equal contents give byte-identical files. What is read is untrusted: nothing is unpickled, and the header is checked.
The fields are a tensor of JSON text rather than metadata of the header, whose size and order safetensors does not
guarantee. A tensor with a digest of all others detects faults of disks and transfers, not forgery.
"""

import dataclasses
import hashlib
import json
import pathlib
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from clipvip_jax.utils import atomic_write
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import log
from clipvip_jax.weights import safetensors_file
from clipvip_jax.weights.mmap_file import iterate_blocks

SUFFIX = ".safetensors"
_FIELDS = "fields"  # the tensor of JSON text
_DIGEST = "digest"
_REMEDY = "write it again, or restore a copy"
_COPIED_BYTES = 32 << 20  # small arrays are copied, so that they outlive their file
_TYPES: dict[type, str] = {str: "a string", list: "a list of strings", dict: "a JSON object"}


@dataclasses.dataclass(frozen=True)
class RowBlocks:
  """A float32 array that is too large for memory.

  Attributes:
    shape: of the array.
    blocks: returns an iterator over its consecutive rows; is called twice.
  """

  shape: tuple[int, ...]
  blocks: Callable[[], Iterator[np.ndarray]]
  dtype = np.dtype(np.float32)


def write_features(path: pathlib.Path, arrays: Mapping[str, np.ndarray | RowBlocks], fields: Mapping[str, Any]) -> None:
  """Writes a file atomically.

  Args:
    path: its directory must exist.
    arrays: by name; the names "fields" and "digest" are reserved.
    fields: JSON-compatible values by name.

  Raises:
    UserError: the file cannot be written.
  """
  text = json.dumps(fields, sort_keys=True)  # ASCII, since file names need not be valid UTF-8
  tensors = {**arrays, _FIELDS: np.frombuffer(text.encode(), np.uint8)}
  tensors[_DIGEST] = digest_tensors(tensors)
  try:
    with atomic_write.atomic_path(path) as temporary, temporary.open("wb") as file:
      # Large types first, which aligns all tensors, as the library orders them.
      names = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
      file.write(safetensors_file.format_header({name: (tensors[name].dtype, tensors[name].shape) for name in names}))
      for name in names:
        for block in _byte_blocks(tensors[name]):
          file.write(block.data)
  except OSError as error:
    raise UserError(f"{path} {atomic_write.write_problem(error, 'name another file')}") from error


def digest_tensors(tensors: Mapping[str, np.ndarray | RowBlocks]) -> np.ndarray:
  """Returns the BLAKE2b digest of names, types, shapes and contents, uint8 [16]."""
  digest = hashlib.blake2b(digest_size=16)
  for name, tensor in sorted(tensors.items()):
    digest.update(f"{name} {tensor.dtype} {tensor.shape}\n".encode())
    for block in _byte_blocks(tensor):
      digest.update(block.data)
  return np.frombuffer(digest.digest(), np.uint8)


def _byte_blocks(tensor: np.ndarray | RowBlocks) -> Iterator[np.ndarray]:
  """Yields the contents of a tensor as uint8 arrays."""
  for block in tensor.blocks() if isinstance(tensor, RowBlocks) else [tensor]:
    yield from iterate_blocks(np.ascontiguousarray(block).reshape(-1).view(np.uint8))


def read_features(
  path: pathlib.Path,
  arrays: Sequence[str],
  fields: Mapping[str, type],
  kind: str,
  defaults: Mapping[str, Any] = types.MappingProxyType({}),
  *,
  mapped: bool = False,
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
  """Reads a file that has these arrays, of any shape and type, and these fields.

  Args:
    path: an existing file.
    arrays: names.
    fields: types by name: str, list (of str) or dict.
    kind: for messages, "an index of videos".
    defaults: values of fields that may be missing.
    mapped: whether arrays of more than 32 MiB are read-only views of the file (see `mmap_file.map_file`), not copies.

  Returns:
    The arrays and the fields.

  Raises:
    UserError: the file is corrupt, does not match its digest, or an array or field is missing or has another type.
  """
  tensors, _ = safetensors_file.read(path, _REMEDY)
  digest = tensors.pop(_DIGEST, None)
  missing = [name for name in (*arrays, _FIELDS) if name not in tensors]
  if missing:
    raise UserError(f"{path} is not {kind}: it has no tensor {missing[0]!r}")
  if digest is not None and not np.array_equal(digest, digest_tensors(tensors)):
    raise UserError(f"{path} is corrupt: it does not match its digest; {_REMEDY}")
  try:
    values = json.loads(tensors[_FIELDS].tobytes())
  except (ValueError, RecursionError):
    values = None
  if not isinstance(values, dict):
    raise UserError(f"{path} is not {kind}: tensor {_FIELDS!r} is not a JSON object")
  values = {**defaults, **values}
  for name, expected in fields.items():
    value = values.get(name)
    is_valid = isinstance(value, expected)
    if isinstance(value, list):
      is_valid = is_valid and all(isinstance(text, str) for text in value)
    if not is_valid:
      raise UserError(f"{path} is not {kind}: field {name!r} is not {_TYPES[expected]}")
  if digest is None:
    log.warning("%s has no digest: an earlier version wrote it, and it cannot be verified", path)
  return {name: _keep(tensors[name], mapped) for name in arrays}, {name: values[name] for name in fields}


def _keep(tensor: np.ndarray, mapped: bool) -> np.ndarray:
  return tensor if mapped and tensor.nbytes > _COPIED_BYTES else np.array(tensor)


def read_digest(path: pathlib.Path) -> str:
  """Returns the hexadecimal digest of a file's contents that it records, or for an earlier version, has.

  Raises:
    UserError: the file is corrupt.
  """
  tensors, _ = safetensors_file.read(path, _REMEDY)
  digest = tensors[_DIGEST] if _DIGEST in tensors else digest_tensors(tensors)
  return digest.tobytes().hex()
