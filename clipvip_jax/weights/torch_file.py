"""Reads PyTorch's .pt files without PyTorch, and without running what they ask for.

Since PyTorch 1.6 such a file is a zip of `NAME/data.pkl`, a pickle that says how tensors are put together, and
`NAME/data/KEY`, the bytes of each storage. A pickle is a program that may call any function of any module. Python's
unpickler is not used here: even without functions, a few bytes make it fill the memory, or overflow its stack while
it hashes a key. Instead the few instructions that `torch.save` writes are carried out one by one. Nothing is imported,
called, hashed or given attributes that the file chose.
"""

import dataclasses
import itertools
import math
import pathlib
import pickletools
import struct
import zipfile
from typing import Any

import ml_dtypes
import numpy as np

from clipvip_jax.utils.errors import UserError
from clipvip_jax.weights.mmap_file import map_file, printable_value

_STORAGES: dict[str, Any] = {
  "torch.DoubleStorage": np.float64,
  "torch.FloatStorage": np.float32,
  "torch.HalfStorage": np.float16,
  "torch.BFloat16Storage": ml_dtypes.bfloat16,
  "torch.LongStorage": np.int64,
  "torch.IntStorage": np.int32,
  "torch.ShortStorage": np.int16,
  "torch.CharStorage": np.int8,
  "torch.ByteStorage": np.uint8,
  "torch.BoolStorage": np.bool_,
}
_TENSOR, _PARAMETER = "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter"
_ORDERED_DICT = "collections.OrderedDict"
# Under which of its entries a training checkpoint may keep the state dict; the first that is there.
_NESTED = ("state_dict", "model_state_dict", "model", "module")
_MOST_PICKLE = 4 << 20  # bytes; what they describe takes up to a hundred times as many. That of B/32 has 40 kB
_MOST_DIRECTORY = 4 << 20  # bytes; the same for the zip's list of entries. That of B/32 has 40 kB
_MOST_AXES = 64  # as NumPy
_LOCAL_HEADER = struct.Struct("<4s5H3L2H")
_ENCRYPTED = 0x2041  # the flags for it: of content, "strong", of the directory
_UTF_8 = 0x800
_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_INSTEAD = "load it in PyTorch and save model.state_dict() with torch.save, or take the .safetensors edition"
_REFUSED = f"no tensor needs it; refused, and nothing was run. If you trust the file, {_INSTEAD}"


def read(path: pathlib.Path) -> dict[str, np.ndarray]:
  """{name: array} of a state dict, read-only views of the file in its own types.

  Raises:
    UserError: the file is not there, damaged, of another kind, or asks for anything but tensors. One line that names
      file and entry.
  """
  data = map_file(path)
  try:
    return _load(data)
  except UserError as error:
    raise UserError(f"{path}: {error}") from error
  except Exception as error:  # whatever a damaged zip or pickle provokes; nothing of it was run
    reason = printable_value(str(error).strip() or type(error).__name__)
    raise UserError(f"{path} is damaged, or no file of PyTorch ({reason})") from error


def _load(data: Any) -> dict[str, np.ndarray]:
  if data[: len(_LEGACY)] == _LEGACY:
    raise UserError(f"was written by a PyTorch before 1.6, whose format cannot be read safely: {_INSTEAD}")
  if data[:4] != b"PK\x03\x04":
    raise UserError(f"is no zip file, which PyTorch writes since 1.6; if it is an older one, {_INSTEAD}")
  entries = _entries(data)
  if any("/code/" in name or name.endswith("/constants.pkl") for name in entries):
    raise UserError(f"is a TorchScript archive, a program and not weights: {_INSTEAD}")
  pickles = [name for name in entries if name.endswith("/data.pkl")]
  if len(pickles) != 1 or pickles[0].count("/") != 1:
    raise UserError(f"holds {len(pickles)} entries NAME/data.pkl, expected one at the top")
  root = pickles[0].removesuffix("data.pkl")
  if bytes(entries.get(f"{root}byteorder", b"little")) != b"little":
    raise UserError(f"{printable_value(root)}byteorder is not 'little', the only order that can be read")
  program = entries[pickles[0]]
  if len(program) > _MOST_PICKLE:
    raise UserError(f"{printable_value(pickles[0])} has {len(program)} bytes; at most {_MOST_PICKLE} are read")
  storages = {name.removeprefix(f"{root}data/"): x for name, x in entries.items() if name.startswith(f"{root}data/")}
  return {name: _array(name, tensor, storages) for name, tensor in _state_dict(_run(bytes(program))).items()}


# The zip.


def _entries(data: Any) -> dict[str, memoryview]:
  """{name: content} of a zip whose entries are stored as they are, each in bytes of its own."""
  size = _directory_size(data)
  if size > _MOST_DIRECTORY:
    raise UserError(f"the zip's directory has {size} bytes; at most {_MOST_DIRECTORY} are read")
  found: dict[str, memoryview] = {}
  places = []
  with zipfile.ZipFile(data) as archive:
    for info in archive.infolist():
      name = printable_value(info.filename)
      if info.filename in found:
        raise UserError(f"entry '{name}' stands twice in the zip")
      begin = _begin(data, info)
      end = begin + info.file_size
      if end > archive.start_dir:
        raise UserError(f"entry '{name}' reaches into the zip's directory, or outside of the file")
      places.append((info.header_offset, end, name))
      found[info.filename] = memoryview(data)[begin:end]
  places.sort()
  for (_, end, name), (begin, _, other) in itertools.pairwise(places):
    if end > begin:
      raise UserError(f"entry '{other}' overlaps another one, '{name}'")
  return found


def _directory_size(data: Any) -> int:
  """How many bytes the zip's directory claims, from the record that ends the file."""
  if data[-22:-18] != b"PK\x05\x06" or data[-2:] != b"\0\0":
    raise UserError("is damaged: it does not end as a zip does; it may have been cut off")
  if data[-42:-38] == b"PK\x06\x07" and data[-98:-94] == b"PK\x06\x06":
    return int.from_bytes(data[-58:-50], "little")
  return int.from_bytes(data[-10:-6], "little")


def _begin(data: Any, info: zipfile.ZipInfo) -> int:
  """Where an entry's content begins, once the directory and the entry's own header tell the same about it."""
  name = printable_value(info.orig_filename)
  parts = info.orig_filename.removesuffix("/").split("/")
  if info.filename != info.orig_filename or "\\" in name or not {"", ".", ".."}.isdisjoint(parts):
    raise UserError(f"entry '{name}' is no name that PyTorch writes")
  if info.header_offset < 0 or info.header_offset + _LOCAL_HEADER.size > len(data):
    raise UserError(f"entry '{name}' reaches outside of the file")
  magic, _, flags, method, *_, name_size, extra_size = _LOCAL_HEADER.unpack_from(data, info.header_offset)
  if magic != b"PK\x03\x04":
    raise UserError(f"entry '{name}' has no header where the zip's directory says")
  if info.compress_type != zipfile.ZIP_STORED or method != zipfile.ZIP_STORED or info.file_size != info.compress_size:
    raise UserError(f"entry '{name}' is compressed; PyTorch stores entries as they are")
  if (info.flag_bits | flags) & _ENCRYPTED:
    raise UserError(f"entry '{name}' is encrypted")
  begin = info.header_offset + _LOCAL_HEADER.size
  if data[begin : begin + name_size] != info.orig_filename.encode("utf-8" if info.flag_bits & _UTF_8 else "cp437"):
    raise UserError(f"entry '{name}' has another name in its own header")
  return begin + name_size + extra_size


# The pickle.


@dataclasses.dataclass(frozen=True)
class _Named:
  """A class or function that the pickle names."""

  name: str


@dataclasses.dataclass(frozen=True)
class _Storage:
  dtype: np.dtype
  key: str
  count: int


@dataclasses.dataclass(frozen=True)
class _Tensor:
  """Tells where a tensor lies in its storage, in elements. What is asked for, not yet checked."""

  storage: _Storage
  offset: int
  size: tuple[int, ...]
  stride: tuple[int, ...]


class _Pairs(list):
  """A dict as its (key, value) pairs: no key is hashed, and of two equal ones none is lost."""


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_EMPTY = {"EMPTY_LIST": list, "EMPTY_DICT": _Pairs}
_VALUES = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE"}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_NO_EFFECT = {"PROTO", "FRAME", "STOP"}


def _run(program: bytes) -> Any:
  """What a pickle describes, of numbers, texts, containers, storages and tensors."""
  stack: list[Any] = []
  marks: list[int] = []
  memo: dict[int, Any] = {}
  argument: Any
  for opcode, argument, _ in pickletools.genops(program):
    match opcode.name:
      case name if name in _NO_EFFECT:
        pass
      case name if name in _VALUES:
        stack.append(argument)
      case name if name in _CONSTANTS:
        stack.append(_CONSTANTS[name])
      case name if name in _EMPTY:
        stack.append(_EMPTY[name]())
      case "MARK":
        marks.append(len(stack))
      case "BINPUT" | "LONG_BINPUT":
        memo[argument] = stack[-1]
      case "MEMOIZE":
        memo[len(memo)] = stack[-1]
      case "BINGET" | "LONG_BINGET":
        stack.append(memo[argument])
      case "TUPLE" | "APPENDS" | "SETITEMS" as name:
        begin = marks.pop()
        items = stack[begin:]
        del stack[begin:]
        _gather(name, stack, items)
      case name if name in _TUPLES:
        stack.append(tuple(_popped(stack, _TUPLES[name])))
      case "APPEND" | "SETITEM" as name:
        _gather(f"{name}S", stack, _popped(stack, 1 if name == "APPEND" else 2))
      case "GLOBAL":
        stack.append(_named(*argument.split(" ", 1)))
      case "STACK_GLOBAL":
        stack.append(_named(*_popped(stack, 2)))
      case "BINPERSID":
        stack.append(_storage(stack.pop()))
      case "REDUCE":
        stack.append(_call(*_popped(stack, 2)))
      case "BUILD":  # PyTorch keeps versions of modules as an attribute of the state dict
        stack.pop()
        if type(stack[-1]) is not _Pairs:
          raise UserError("the pickle changes what is no dict")
      case name:
        raise UserError(f"data.pkl holds the instruction {name} {printable_value(argument or '')}: {_REFUSED}")
  return stack[-1]


def _popped(stack: list[Any], count: int) -> list[Any]:
  items = stack[-count:]
  del stack[-count:]
  if len(items) != count:
    raise ValueError("the pickle takes more from its stack than it put there")
  return items


def _gather(name: str, stack: list[Any], items: list[Any]) -> None:
  """Makes a tuple of items, or adds them to the list or dict that lies before them."""
  if name == "TUPLE":
    stack.append(tuple(items))
  elif name == "APPENDS" and type(stack[-1]) is list:
    stack[-1] += items
  elif name == "SETITEMS" and type(stack[-1]) is _Pairs:
    stack[-1] += zip(items[::2], items[1::2], strict=True)
  else:
    raise UserError("the pickle adds items to what is no list or dict")


def _named(module: Any, name: Any) -> _Named:
  full = f"{module}.{name}" if type(module) is type(name) is str else ""
  if full not in (_TENSOR, _PARAMETER, _ORDERED_DICT, *_STORAGES):
    asked = printable_value(full or "a module that is no text")
    raise UserError(f"data.pkl asks for {asked}: {_REFUSED}")
  return _Named(full)


def _storage(reference: Any) -> _Storage:
  match reference:
    case ("storage", _Named(name), str(key), _, int(count)) if name in _STORAGES and type(count) is int:
      return _Storage(np.dtype(_STORAGES[name]), key, count)
  raise UserError("data.pkl refers to something that is no storage")


def _call(function: Any, arguments: Any) -> Any:
  """What a function that the pickle may name would return."""
  if type(arguments) is not tuple:
    raise UserError("the pickle calls something without a tuple of arguments")
  match function, arguments:
    case _Named(name), () if name == _ORDERED_DICT:
      return _Pairs()
    case _Named(name), (_Storage() as storage, offset, tuple(size), tuple(stride), _, _, *metadata) if name == _TENSOR:
      if any(metadata):  # a list of at most one: None, or what tells conjugate from plain numbers
        raise UserError("a tensor is marked as conjugate or negative; save a clone() of it in PyTorch")
      return _Tensor(storage, offset, size, stride)
    case _Named(name), (_Tensor() as tensor, _, _) if name == _PARAMETER:
      return tensor
    case _Named(name), _ if name in _STORAGES:
      raise UserError(f"the pickle calls a type of storage, {name}")
    case _Named(name), _:
      raise UserError(f"a tensor is not put together as PyTorch does it (arguments of {name})")
  raise UserError("the pickle calls what is no function")


# From both to arrays.


def _state_dict(content: Any) -> dict[str, _Tensor]:
  """The names and tensors, from the top or from where a training checkpoint keeps them."""
  if type(content) is not _Pairs:
    raise UserError(f"holds {_kind(content)}, expected a state dict")
  for key in _NESTED:
    inner = [value for name, value in content if type(name) is str and name == key and type(value) is _Pairs]
    if len(inner) > 1:
      raise UserError(f"names '{key}' twice")
    if inner:
      content = inner[0]
      break
  tensors: dict[str, _Tensor] = {}
  for name, tensor in content:
    if type(name) is not str:
      raise UserError(f"the state dict has a name that is {_kind(name)}, expected a text")
    if type(tensor) is not _Tensor:
      raise UserError(f"{printable_value(name)} is {_kind(tensor)}, expected a tensor")
    if name in tensors:
      raise UserError(f"the state dict names '{printable_value(name)}' twice")
    tensors[name] = tensor
  if not tensors:
    raise UserError("holds no tensor")
  return tensors


def _kind(value: Any) -> str:
  ours = {_Pairs: "dict", _Named: "a type or function", _Storage: "storage", _Tensor: "tensor"}
  return ours.get(type(value), type(value).__name__)


def _array(name: str, tensor: _Tensor, storages: dict[str, memoryview]) -> np.ndarray:
  """A strided view of a storage, all of it inside."""
  offset, size, stride = tensor.offset, tensor.size, tensor.stride
  dtype, count = tensor.storage.dtype, tensor.storage.count
  content = _content(printable_value(name), tensor.storage, storages)
  if any(type(n) is not int for n in (offset, *size, *stride)):  # what else they hold may be too deep for a message
    raise UserError(f"{printable_value(name)} has an offset, size or stride that is no whole number")
  if len(size) > _MOST_AXES or len(stride) > _MOST_AXES or any(abs(n) >= 2**63 for n in (offset, *size, *stride)):
    raise UserError(f"{printable_value(name)} has more than {_MOST_AXES} axes, or numbers that no file can reach")
  numbers = f"offset {printable_value(offset)}, size {printable_value(size)} and stride {printable_value(stride)}"
  told = f"{printable_value(name)} has {numbers}"
  if any(n < 0 for n in (offset, *size, *stride)) or len(size) != len(stride):
    raise UserError(f"{told}; expected whole numbers from 0, as many strides as sizes")
  if 0 not in size:
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if math.prod(size) > count or last >= count:
      raise UserError(f"{told}, and reaches outside of its storage of {count}")
  steps = [step * dtype.itemsize if n > 1 else 0 for n, step in zip(size, stride, strict=True)]
  try:
    if 0 in size:
      return np.broadcast_to(np.zeros((), dtype), size)
    return np.ndarray(size, dtype, content, offset * dtype.itemsize, steps)
  except ValueError as error:  # more dimensions, or larger ones around a zero, than NumPy has
    raise UserError(f"{told}: {error}") from error


def _content(name: str, storage: _Storage, storages: dict[str, memoryview]) -> memoryview:
  key, promised = printable_value(storage.key), f"{storage.count} x {storage.dtype.itemsize}"
  if storage.key not in storages:
    raise UserError(f"{name}: storage '{key}' is not in the file")
  content = storages[storage.key]
  if len(content) != storage.count * storage.dtype.itemsize:
    raise UserError(f"{name}: storage '{key}' has {len(content)} bytes, and {promised} are promised")
  return content
