"""Interpreter for the pickles of tensors that `torch.save` writes, which executes nothing.

A pickle is a program that can call any function of any module. Python's unpickler is not safe here even without
functions: a few bytes make it fill the memory, or overflow its stack while it hashes a key. This interpreter carries
out the few opcodes that tensors need. Nothing that the file names is imported, called, hashed or given attributes;
the result describes storages and tensors without reading them.

Training checkpoints hold other objects beside their tensors: arguments, NumPy scalars, sizes. Such an object becomes
an `OpaqueValue`, which is never built; where a tensor is required, it is refused.
"""

import dataclasses
import pickletools
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import DTypeLike

from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import printable

STORAGE_DTYPES: dict[str, DTypeLike] = {
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
REBUILD_TENSOR = "torch._utils._rebuild_tensor_v2"
# Number of arguments of each, of which the first is the tensor; the last of four are attributes, which are dropped.
_REBUILD_PARAMETER = {"torch._utils._rebuild_parameter": 3, "torch._utils._rebuild_parameter_with_state": 4}
_REBUILD_WITH_STATE, _TENSOR = "torch._tensor._rebuild_from_type_v2", "torch.Tensor"  # a tensor with attributes
_ORDERED_DICT = "collections.OrderedDict"
_KNOWN_GLOBALS = frozenset(
  (REBUILD_TENSOR, *_REBUILD_PARAMETER, _REBUILD_WITH_STATE, _TENSOR, _ORDERED_DICT, *STORAGE_DTYPES)
)
_TORCHSCRIPT_CLASS = "__torch__."  # prefix of the classes of a TorchScript archive

RESAVE = "load it in PyTorch and save model.state_dict() with torch.save, or use the .safetensors edition"
_NOT_EXECUTED = f"which tensors do not need; nothing was executed. If you trust the file, {RESAVE}"
_TEXT_LIMIT = 160  # characters of a name from the file in a message


@dataclasses.dataclass(frozen=True)
class GlobalName:
  """A class or function that the pickle refers to by name."""

  name: str


@dataclasses.dataclass(frozen=True)
class StorageRef:
  """A storage in the archive.

  Attributes:
    dtype: of its elements.
    key: of its entry, `data/KEY`.
    count: number of elements.
  """

  dtype: np.dtype
  key: str
  count: int


@dataclasses.dataclass(frozen=True)
class TensorRef:
  """A strided view of a storage, in elements. The values come from the file and are not validated."""

  storage: StorageRef
  offset: int
  size: tuple[int, ...]
  stride: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class OpaqueValue:
  """An object that is not built.

  Attributes:
    reason: the reference or opcode that it needs, for an error message.
  """

  reason: str

  def error(self) -> UserError:
    """Returns the error for an object in place of tensors."""
    return UserError(f"data.pkl {self.reason}, {_NOT_EXECUTED}")


class Pairs(list):
  """A dict as a list of (key, value): keys are not hashed, and duplicate keys stay visible."""


class ModuleAttributes(Pairs):
  """Attributes of a module in a TorchScript archive, by name."""


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_EMPTY_CONTAINERS = {"EMPTY_LIST": list, "EMPTY_DICT": Pairs}
_LITERALS = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE"}
_OPAQUE = {"BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8", "EMPTY_SET"}
_TUPLE_LENGTHS = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_NO_EFFECT = {"PROTO", "FRAME", "STOP"}


def interpret(program: bytes) -> Any:
  """Returns the value that a pickle describes: numbers, strings, lists, tuples, Pairs, StorageRefs and TensorRefs.

  Raises:
    UserError: the pickle contains an unsupported opcode, or tensors that PyTorch does not write.
    Exception: whatever `pickletools` or an inconsistent stack raises for a corrupt pickle.
  """
  stack: list[Any] = []
  marks: list[int] = []
  memo: dict[int, Any] = {}
  argument: Any
  for opcode, argument, _ in pickletools.genops(program):
    match opcode.name:
      case name if name in _NO_EFFECT:
        pass
      case name if name in _LITERALS:
        stack.append(argument)
      case name if name in _CONSTANTS:
        stack.append(_CONSTANTS[name])
      case name if name in _EMPTY_CONTAINERS:
        stack.append(_EMPTY_CONTAINERS[name]())
      case "MARK":
        marks.append(len(stack))
      case "BINPUT" | "LONG_BINPUT":
        memo[argument] = stack[-1]
      case "MEMOIZE":
        memo[len(memo)] = stack[-1]
      case "BINGET" | "LONG_BINGET":
        stack.append(memo[argument])
      case name if name in _OPAQUE:
        stack.append(OpaqueValue(f"contains the opcode {name}"))
      case "TUPLE" | "APPENDS" | "SETITEMS" | "ADDITEMS" | "FROZENSET" | "OBJ" as name:
        _collect(name, stack, _pop_to_mark(stack, marks))
      case name if name in _TUPLE_LENGTHS:
        stack.append(tuple(_pop(stack, _TUPLE_LENGTHS[name])))
      case "APPEND" | "SETITEM" as name:
        _collect(f"{name}S", stack, _pop(stack, 1 if name == "APPEND" else 2))
      case "GLOBAL":
        stack.append(_global(*argument.split(" ", 1)))
      case "STACK_GLOBAL":
        stack.append(_global(*_pop(stack, 2)))
      case "BINPERSID":
        stack.append(_storage(stack.pop()))
      case "REDUCE":
        stack.append(_reduce(*_pop(stack, 2)))
      case "NEWOBJ" | "NEWOBJ_EX" as name:
        stack.append(_new_object(name, _pop(stack, 2 if name == "NEWOBJ" else 3)[0]))
      case "BUILD":
        attributes = stack.pop()
        _set_attributes(stack[-1], attributes)
      case name:
        raise UserError(
          f"data.pkl contains the opcode {name} {printable(argument or '', _TEXT_LIMIT)}, {_NOT_EXECUTED}"
        )
  return stack[-1]


def _pop(stack: list[Any], count: int) -> list[Any]:
  items = stack[-count:]
  del stack[-count:]
  if len(items) != count:
    raise ValueError("stack underflow in the pickle")
  return items


def _pop_to_mark(stack: list[Any], marks: list[int]) -> list[Any]:
  begin = marks.pop()
  items = stack[begin:]
  del stack[begin:]
  return items


def _collect(opcode: str, stack: list[Any], items: list[Any]) -> None:
  """Pushes items as one value, or adds them to the container on top of the stack."""
  if opcode == "TUPLE":
    stack.append(tuple(items))
  elif opcode == "FROZENSET":
    stack.append(OpaqueValue("contains a set"))
  elif opcode == "OBJ":
    stack.append(_new_object(opcode, items[0]))
  elif type(stack[-1]) is OpaqueValue:
    pass
  elif opcode == "APPENDS" and type(stack[-1]) is list:
    stack[-1] += items
  elif opcode == "SETITEMS" and type(stack[-1]) is Pairs:
    stack[-1] += zip(items[::2], items[1::2], strict=True)
  else:
    raise UserError(f"data.pkl adds items to an object that is neither list nor dict, {_NOT_EXECUTED}")


def _global(module: Any, name: Any) -> GlobalName | OpaqueValue:
  if not type(module) is type(name) is str:
    raise OpaqueValue("references a function whose name is not a string").error()
  full_name = f"{module}.{name}"
  if full_name in _KNOWN_GLOBALS or full_name.startswith(_TORCHSCRIPT_CLASS):
    return GlobalName(full_name)
  return OpaqueValue(f"references {printable(full_name, _TEXT_LIMIT)}")


def _new_object(opcode: str, cls: Any) -> ModuleAttributes | OpaqueValue:
  """Returns an instance of a class without attributes."""
  match cls:
    case GlobalName(name) if name.startswith(_TORCHSCRIPT_CLASS):
      return ModuleAttributes()
    case OpaqueValue():
      return cls
  return OpaqueValue(f"contains the opcode {opcode}")


def _set_attributes(target: Any, attributes: Any) -> None:
  """Keeps the attributes of a TorchScript module; drops others, as the module versions of a state dict."""
  if type(target) is ModuleAttributes and type(attributes) is Pairs:
    target += attributes
  elif type(target) not in (Pairs, OpaqueValue):
    raise UserError(f"data.pkl sets attributes of an object that is not a dict, {_NOT_EXECUTED}")


def _storage(reference: Any) -> StorageRef | OpaqueValue:
  match reference:
    case ("storage", OpaqueValue() as unsupported, str(), _, _):
      return unsupported
    case ("storage", GlobalName(name), str(key), _, int(count)) if name in STORAGE_DTYPES and type(count) is int:
      return StorageRef(np.dtype(STORAGE_DTYPES[name]), key, count)
  raise UserError(f"data.pkl contains a persistent id that is not a storage, {_NOT_EXECUTED}")


def _reduce(function: Any, arguments: Any) -> Pairs | TensorRef | OpaqueValue:
  """Returns what a call of an allowed function describes."""
  if type(arguments) is not tuple:
    raise UserError(f"data.pkl calls a function without a tuple of arguments, {_NOT_EXECUTED}")
  match function, arguments:
    case OpaqueValue(), _:
      return function
    case GlobalName(name), (OpaqueValue() as unsupported, *_) if name == REBUILD_TENSOR or name in _REBUILD_PARAMETER:
      return unsupported
    case GlobalName(name), (rebuild, kind, tuple(inner), _) if name == _REBUILD_WITH_STATE and (rebuild, kind) == (
      GlobalName(REBUILD_TENSOR),
      GlobalName(_TENSOR),
    ):
      return _reduce(rebuild, inner)
    case GlobalName(name), _ if name in (_REBUILD_WITH_STATE, _TENSOR):
      return next((x for x in arguments if type(x) is OpaqueValue), OpaqueValue(f"references {name}"))
    case GlobalName(name), () if name == _ORDERED_DICT:
      return Pairs()
    case GlobalName(name), (StorageRef() as storage, offset, tuple(size), tuple(stride), _, _, *metadata) if (
      name == REBUILD_TENSOR
    ):
      if any(metadata):  # at most one: None, or the flags of lazily conjugated and negated tensors
        raise UserError(
          "data.pkl contains a tensor with a conjugate or negative bit; save tensor.resolve_conj() instead"
        )
      return TensorRef(storage, offset, size, stride)
    case GlobalName(name), (TensorRef() as tensor, *others) if _REBUILD_PARAMETER.get(name) == 1 + len(others):
      return tensor
    case GlobalName(name), _ if name in STORAGE_DTYPES:
      raise UserError(f"data.pkl calls the storage type {name}, {_NOT_EXECUTED}")
    case GlobalName(name), _:
      raise UserError(f"data.pkl calls {name} with arguments that PyTorch does not write; nothing was executed")
  raise UserError(f"data.pkl calls an object that is not a function, {_NOT_EXECUTED}")
