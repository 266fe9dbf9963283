"""PyTorch's .pt files, read without PyTorch and without executing them.

Since PyTorch 1.6 such a file is a zip archive of `NAME/data.pkl`, a pickle that describes how tensors view storages,
and `NAME/data/KEY`, the bytes of each storage. `stored_zip.py` reads the archive, `tensor_pickle.py` the pickle,
`state_dict.py` finds the tensors in it; this module turns them into arrays. Of a TorchScript archive, as OpenAI
publishes CLIP, only the tensors are read.
"""

import mmap
import pathlib
from collections.abc import Mapping

import numpy as np

from clipvip_jax.utils.errors import UserError, first_line
from clipvip_jax.utils.log import printable
from clipvip_jax.weights import json_object, state_dict, stored_zip, tensor_pickle
from clipvip_jax.weights.mmap_file import map_file
from clipvip_jax.weights.tensor_pickle import RESAVE, StorageRef, TensorRef

# Bytes of data.pkl; interpreting takes up to a hundred times as much memory. B/32 has 40 kB.
_MAX_PICKLE = 4 << 20
_MAX_AXES = 64  # as in NumPy
_TEXT_LIMIT = 160  # characters of a name from the file in a message
METADATA_ENTRY = "clipvip_jax.json"  # of files that this project wrote: metadata as in a .safetensors file
_MAX_METADATA = 1 << 16  # bytes
_LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."


def is_torch(start: bytes) -> bool:
  """Returns whether a file that starts with these bytes (at least 16) is PyTorch's, of any version."""
  return stored_zip.is_zip(start) or start.startswith(_LEGACY_MAGIC)


def is_torchscript(path: pathlib.Path) -> bool:
  """Returns whether a readable file of weights is a TorchScript archive."""
  data = map_file(path)
  return stored_zip.is_zip(data[:4]) and _has_program(stored_zip.read_entries(data))


def read(path: pathlib.Path) -> dict[str, np.ndarray]:
  """Returns {name: array} of a state dict: read-only views of the file in its own dtypes.

  Raises:
    UserError: the file is missing, corrupt, of another format, or references anything but tensors. The message is one
      line that names file and entry.
  """
  data = map_file(path)
  try:
    return _load(data)
  except UserError as error:
    raise UserError(f"{path}: {error}") from error
  except Exception as error:  # from zipfile, pickletools and NumPy on corrupt input; nothing was executed
    reason = printable(first_line(error), _TEXT_LIMIT)
    raise UserError(f"{path} is corrupt or not a PyTorch file ({reason}); download it again") from error


def read_metadata(path: pathlib.Path) -> dict[str, str]:
  """Returns the metadata of a file that `read` accepts; {} if another program wrote it.

  Raises:
    UserError: the metadata is invalid.
  """
  data = map_file(path)
  entries = stored_zip.read_entries(data)
  content = next((x for name, x in entries.items() if name.partition("/")[2] == METADATA_ENTRY), memoryview(b"{}"))
  try:
    metadata = json_object.parse(bytes(content[:_MAX_METADATA]))
  except (ValueError, RecursionError) as error:
    raise UserError(f"{path}: {METADATA_ENTRY} is corrupt ({printable(error, _TEXT_LIMIT)}); write it again") from error
  if not isinstance(metadata, dict):
    raise UserError(f"{path}: {METADATA_ENTRY} is not an object; write the file again")
  return metadata


def _load(data: mmap.mmap) -> dict[str, np.ndarray]:
  if data[: len(_LEGACY_MAGIC)] == _LEGACY_MAGIC:
    raise UserError(f"written by PyTorch before 1.6, whose format cannot be read safely; {RESAVE}")
  if not stored_zip.is_zip(data[:4]):
    raise UserError(f"not a zip archive, the format of PyTorch since 1.6; if the file is older, {RESAVE}")
  entries = stored_zip.read_entries(data)
  pickles = [name for name in entries if name.endswith("/data.pkl")]
  if len(pickles) != 1 or pickles[0].count("/") != 1:
    raise UserError(f"contains {len(pickles)} entries NAME/data.pkl, expected one at the top level; {RESAVE}")
  root = pickles[0].removesuffix("data.pkl")
  if bytes(entries.get(f"{root}byteorder", b"little")) != b"little":
    raise UserError(f"{_shown(root)}byteorder is not 'little'; save the file on a little-endian machine")
  program = entries[pickles[0]]
  if len(program) > _MAX_PICKLE:
    raise UserError(f"{_shown(pickles[0])} has {len(program)} bytes; at most {_MAX_PICKLE} are supported: {RESAVE}")
  storages = {name.removeprefix(f"{root}data/"): x for name, x in entries.items() if name.startswith(f"{root}data/")}
  content = tensor_pickle.interpret(bytes(program))
  tensors = state_dict.of_torchscript(content) if _has_program(entries) else state_dict.of_checkpoint(content)
  arrays = {name: _array(name, tensor, storages) for name, tensor in tensors.items()}
  _check_expanded({name: x for name, x in arrays.items() if x.size > tensors[name].storage.count}, len(data))
  return arrays


def _check_expanded(arrays: Mapping[str, np.ndarray], limit: int) -> None:
  """Checks that arrays that repeat elements of their storages have, together, at most `limit` bytes.

  They take no memory as views, but a few bytes of a file could otherwise fill the memory where they are copied.
  """
  total = sum(array.nbytes for array in arrays.values())
  if total > limit:
    name, largest = max(arrays.items(), key=lambda item: item[1].nbytes)
    raise UserError(
      f"{len(arrays)} expanded tensors have {total} bytes, more than the file with {limit}; the largest is"
      f" {_shown(name)} of size {_shown(largest.shape)}; save contiguous tensors: {RESAVE}"
    )


def _has_program(entries: Mapping[str, memoryview]) -> bool:
  return any("/code/" in name or name.endswith("/constants.pkl") for name in entries)


def _shown(value: object) -> str:
  return printable(value, _TEXT_LIMIT)


def _array(name: str, tensor: TensorRef, storages: Mapping[str, memoryview]) -> np.ndarray:
  """Returns the strided view of its storage that a tensor describes, after checking that it lies inside."""
  offset, size, stride = tensor.offset, tensor.size, tensor.stride
  dtype, count = tensor.storage.dtype, tensor.storage.count
  content = _storage_content(_shown(name), tensor.storage, storages)
  numbers = (offset, *size, *stride)
  if any(type(n) is not int for n in numbers):  # their repr may be nested too deeply for a message
    raise UserError(f"{_shown(name)} has an offset, size or stride that is not an integer; {RESAVE}")
  if len(size) > _MAX_AXES or len(stride) > _MAX_AXES or any(abs(n) >= 2**63 for n in numbers):
    raise UserError(f"{_shown(name)} has more than {_MAX_AXES} axes or an integer beyond 64 bits; {RESAVE}")
  described = f"{_shown(name)} has offset {offset}, size {_shown(size)} and stride {_shown(stride)}"
  if any(n < 0 for n in numbers) or len(size) != len(stride):
    raise UserError(f"{described}; expected integers of at least 0, as many strides as sizes")
  if 0 not in size:
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if last >= count:  # an expanded tensor has fewer elements in its storage than in its size
      raise UserError(f"{described}, outside of its storage of {count} elements; download the file again")
  steps = [step * dtype.itemsize if n > 1 else 0 for n, step in zip(size, stride, strict=True)]
  try:
    if 0 in size:
      return np.broadcast_to(np.zeros((), dtype), size)
    return np.ndarray(size, dtype, content, offset * dtype.itemsize, steps)
  except ValueError as error:  # an empty array with other sizes beyond NumPy's limits
    raise UserError(f"{described}: {error}") from error


def _storage_content(name: str, storage: StorageRef, storages: Mapping[str, memoryview]) -> memoryview:
  key, itemsize = _shown(storage.key), storage.dtype.itemsize
  if storage.key not in storages:
    raise UserError(f"{name}: storage '{key}' is missing in the file; download it again")
  content = storages[storage.key]
  if len(content) != storage.count * itemsize:
    raise UserError(
      f"{name}: storage '{key}' has {len(content)} bytes, expected {storage.count} x {itemsize}; download it again"
    )
  return content
