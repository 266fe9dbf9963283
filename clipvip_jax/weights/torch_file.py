"""Reads PyTorch's .pt files without PyTorch, and without running what they ask for.

Since PyTorch 1.6 such a file is a zip of `NAME/data.pkl`, a pickle that says how tensors are put together, and
`NAME/data/KEY`, the bytes of each storage. A pickle may name any function of any module to be called. Here it may name
those that put tensors together, and gets stand-ins for them; everything else is refused by its name, and nothing is
ever imported or called that the file chose.
"""

import io
import math
import pathlib
import pickle
import struct
import zipfile
from typing import Any

import ml_dtypes
import numpy as np

from clipvip_jax.errors import UserError
from clipvip_jax.weights.mapped import map_file

_STORAGES: dict[str, Any] = {
  "DoubleStorage": np.float64,
  "FloatStorage": np.float32,
  "HalfStorage": np.float16,
  "BFloat16Storage": ml_dtypes.bfloat16,
  "LongStorage": np.int64,
  "IntStorage": np.int32,
  "ShortStorage": np.int16,
  "CharStorage": np.int8,
  "ByteStorage": np.uint8,
  "BoolStorage": np.bool_,
}
# Under which of its entries a training checkpoint may keep the state dict.
_NESTED = ("state_dict", "model_state_dict", "model", "module")
_MOST_PICKLE = 64 << 20  # bytes; that of B/32 has 40 kB
_LOCAL_HEADER = struct.Struct("<4s5H3L2H")
_ENCRYPTED = 1
_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_INSTEAD = "load it in PyTorch and save model.state_dict() with torch.save, or take the .safetensors edition"


def read(path: pathlib.Path) -> dict[str, np.ndarray]:
  """{name: array} of a state dict, read-only views of the file in its own types.

  Raises:
    UserError: the file is not there, damaged, of another kind, or asks for anything but tensors. One line that names
      file and entry.
  """
  data = map_file(path)
  try:
    return _state_dict(_load(data))
  except UserError as error:
    raise UserError(f"{path}: {error}") from error
  except Exception as error:  # whatever a damaged zip or pickle provokes; nothing of it was run
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    raise UserError(f"{path} is damaged, or no file of PyTorch ({reason})") from error


def _load(data: Any) -> Any:
  """What data.pkl describes."""
  if data[: len(_LEGACY)] == _LEGACY:
    raise UserError(f"was written by a PyTorch before 1.6, whose format cannot be read safely: {_INSTEAD}")
  if data[:2] != b"PK":
    raise UserError("is no zip file, which PyTorch writes")
  entries = _entries(data)
  if any("/code/" in name or name.endswith("/constants.pkl") for name in entries):
    raise UserError(f"is a TorchScript archive, a program and not weights: {_INSTEAD}")
  pickles = [name for name in entries if name.endswith("/data.pkl") and name.count("/") == 1]
  if len(pickles) != 1:
    raise UserError(f"holds {len(pickles)} entries NAME/data.pkl, expected one")
  root = pickles[0].removesuffix("data.pkl")
  if f"{root}byteorder" in entries and bytes(_content(data, entries[f"{root}byteorder"])) != b"little":
    raise UserError(f"{root}byteorder is not 'little', the only order that can be read")
  begin, size = entries[pickles[0]]
  if size > _MOST_PICKLE:
    raise UserError(f"{pickles[0]} has {size} bytes; at most {_MOST_PICKLE} are read")
  storages = {name.removeprefix(f"{root}data/"): place for name, place in entries.items() if f"{root}data/" in name}
  return _Unpickler(data, data[begin : begin + size], storages).load()


def _content(data: Any, place: tuple[int, int]) -> memoryview:
  begin, size = place
  return memoryview(data)[begin : begin + size]


def _entries(data: Any) -> dict[str, tuple[int, int]]:
  """{name: (where its bytes begin, how many)} of a zip whose entries are stored as they are."""
  found: dict[str, tuple[int, int]] = {}
  with zipfile.ZipFile(_File(data)) as archive:
    for info in archive.infolist():
      name = info.filename
      if name in found:
        raise UserError(f"entry {name!r} stands twice in the zip")
      if name.startswith("/") or "\\" in name or ".." in name.split("/"):
        raise UserError(f"entry {name!r} is no name that PyTorch writes")
      if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
        raise UserError(f"entry {name!r} is compressed; PyTorch stores entries as they are")
      if info.flag_bits & _ENCRYPTED:
        raise UserError(f"entry {name!r} is encrypted")
      header = _LOCAL_HEADER.unpack_from(data, info.header_offset)
      if header[0] != b"PK\x03\x04":
        raise UserError(f"entry {name!r} has no header where the zip's directory says")
      found[name] = (info.header_offset + _LOCAL_HEADER.size + header[-2] + header[-1], info.file_size)
  end = 0
  for name, (begin, size) in sorted(found.items(), key=lambda item: item[1]):
    if begin < end or begin + size > len(data):
      raise UserError(f"entry {name!r} overlaps another one or reaches outside of the file")
    end = begin + size
  return found


class _File(io.RawIOBase):
  """Mapped memory as a file to be read."""

  def __init__(self, data: Any):
    self._data, self._at = data, 0

  def readable(self) -> bool:
    return True

  def seekable(self) -> bool:
    return True

  def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
    self._at = max(offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: len(self._data)}[whence], 0)
    return self._at

  def tell(self) -> int:
    return self._at

  def read(self, size: int = -1) -> bytes:
    part = self._data[self._at :] if size < 0 else self._data[self._at : self._at + size]
    self._at += len(part)
    return part


class _Named:
  """Stands for a class or function that the pickle names. Calling it calls ours; nothing can be changed on it."""

  __slots__ = ("_make", "dtype")
  _make: Any
  dtype: Any

  def __init__(self, make: Any = None, dtype: Any = None):
    object.__setattr__(self, "_make", make)
    object.__setattr__(self, "dtype", dtype)

  def __call__(self, *args: Any) -> Any:
    if self._make is None:
      raise UserError("the pickle calls a type of storage")
    return self._make(*args)

  def __setattr__(self, name: str, value: Any) -> None:
    raise UserError(f"the pickle sets {name!r} on what it names")

  def __setstate__(self, state: Any) -> None:
    raise UserError("the pickle changes what it names")


class _Tensors(dict):
  """Stands for an OrderedDict, whose attributes (PyTorch keeps version numbers there) are not kept."""

  def __setstate__(self, state: Any) -> None:
    del state


def _ordered_dict(*args: Any) -> _Tensors:
  return _Tensors(*args)


def _rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any, *flags: Any) -> np.ndarray:
  """torch._utils._rebuild_tensor_v2: a strided view of a storage, all of it inside."""
  del flags  # requires_grad, hooks, metadata
  numbers = (offset, *size, *stride)
  if not isinstance(storage, np.ndarray) or storage.ndim != 1 or len(size) != len(stride):
    raise UserError("a tensor is not put together as PyTorch does it")
  if any(type(n) is not int or n < 0 for n in numbers) or len(size) > 16:
    raise UserError(f"a tensor has offset {offset}, size {tuple(size)} and stride {tuple(stride)}")
  count = math.prod(size)
  last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) if count else 0
  if count > len(storage) or last >= max(len(storage), 1):
    raise UserError(f"a tensor of size {tuple(size)} reaches outside of its storage of {len(storage)}")
  if not count:
    return np.zeros(size, storage.dtype)
  strides = [step * storage.itemsize for step in stride]
  return np.lib.stride_tricks.as_strided(storage[offset:], size, strides, writeable=False)


def _rebuild_parameter(tensor: Any, *flags: Any) -> Any:
  del flags
  return tensor


_ALLOWED = {
  ("torch._utils", "_rebuild_tensor_v2"): _Named(_rebuild_tensor),
  ("torch._utils", "_rebuild_parameter"): _Named(_rebuild_parameter),
  ("collections", "OrderedDict"): _Named(_ordered_dict),
  **{("torch", name): _Named(dtype=np.dtype(dtype)) for name, dtype in _STORAGES.items()},
}


class _Unpickler(pickle.Unpickler):
  """Puts tensors together, and refuses every other global by name."""

  def __init__(self, data: Any, content: bytes, storages: dict[str, tuple[int, int]]):
    super().__init__(io.BytesIO(content))
    self._data, self._storages = data, storages

  def find_class(self, module: str, name: str) -> Any:
    if (module, name) not in _ALLOWED:
      raise UserError(f"data.pkl asks for {module}.{name}, which no tensor needs; refused, and nothing was run")
    return _ALLOWED[module, name]

  def persistent_load(self, reference: Any) -> np.ndarray:
    kind, storage, key, _, count = reference
    dtype = storage.dtype
    if kind != "storage" or dtype is None or type(count) is not int:
      raise UserError("data.pkl refers to something that is no storage")
    if key not in self._storages:
      raise UserError(f"storage {key!r} is not in the file")
    begin, size = self._storages[key]
    if size != count * dtype.itemsize:
      raise UserError(f"storage {key!r} has {size} bytes, and {count} x {dtype.itemsize} are promised")
    return np.frombuffer(self._data, dtype, count, begin)


def _state_dict(content: Any) -> dict[str, np.ndarray]:
  """The names and tensors, from the top or from where a training checkpoint keeps them."""
  if not isinstance(content, dict):
    raise UserError(f"holds {type(content).__name__}, expected a state dict")
  for key in _NESTED:
    if isinstance(content.get(key), dict):
      content = content[key]
      break
  for name, tensor in content.items():
    if not isinstance(name, str):
      raise UserError(f"the state dict has a name that is {type(name).__name__}, expected a text")
    if not isinstance(tensor, np.ndarray):
      raise UserError(f"{name} is {type(tensor).__name__}, expected a tensor")
  return dict(content)
