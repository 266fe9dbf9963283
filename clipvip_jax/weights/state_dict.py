"""State dicts in the content of PyTorch's files: at the top level, inside of training checkpoints, of TorchScript."""

from typing import Any

from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import printable
from clipvip_jax.weights.tensor_pickle import (
  RESAVE,
  GlobalName,
  ModuleAttributes,
  OpaqueValue,
  Pairs,
  StorageRef,
  TensorRef,
)

# Keys under which training checkpoints keep the tensors of a model.
_KEYS = (
  "state_dict",
  "model_state_dict",
  "model",
  "module",
  "net",
  "network",
  "params",
  "weights",
  "ema",
  "model_ema",
  "ema_model",
  "ema_state_dict",
  "model_ema_state_dict",
  "state_dict_ema",
  "params_ema",
)
_MAX_DEPTH = 4  # dicts around the state dict of a checkpoint
_MAX_MODULE_DEPTH = 32  # submodules of TorchScript
_MAX_MODULES = 100_000
_TEXT_LIMIT = 160  # characters of a name from the file in a message


def of_checkpoint(content: Any) -> dict[str, TensorRef]:
  """Returns {name: tensor} of a state dict, which may lie in a training checkpoint under one of the usual keys.

  Objects beside the state dict are skipped; inside of it, only entries whose name is not that of a submodule's tensor,
  as `step`.

  Raises:
    UserError: there are no tensors, several state dicts, a tensor twice, or another value in place of a tensor.
  """
  content = _nested_state_dict(content)
  tensors: dict[str, TensorRef] = {}
  other: dict[str, Any] = {}
  for name, value in content:
    if type(name) is not str:
      raise UserError(f"the state dict has a key of type {_kind(name)}, expected a string; {RESAVE}")
    if name in tensors:
      raise UserError(f"the state dict contains '{_shown(name)}' twice; {RESAVE}")
    if type(value) is TensorRef:
      tensors[name] = value
    else:
      other[name] = value
  for name, value in other.items():
    if not tensors or "." in name:
      if type(value) is OpaqueValue:
        raise UserError(f"{_shown(name)} is not a tensor: {value.error()}")
      raise UserError(f"{_shown(name)} is {_kind(value)}, expected a tensor; {RESAVE}")
  if not tensors:
    raise UserError(f"contains no tensors; {RESAVE}")
  return tensors


def _nested_state_dict(content: Any) -> Pairs:
  for _ in range(_MAX_DEPTH):
    if type(content) is OpaqueValue:
      raise content.error()
    if type(content) is not Pairs:
      raise UserError(f"contains {_kind(content)}, expected a state dict; {RESAVE}")
    nested = [(key, value) for key, value in content if type(key) is str and key in _KEYS and _has_tensors(value)]
    if not nested:
      return content
    keys = [key for key, _ in nested]
    for key in keys:
      if keys.count(key) > 1:
        raise UserError(f"contains '{key}' twice; {RESAVE}")
    if len(nested) > 1:
      raise UserError(
        f"contains several state dicts: {', '.join(keys)}; load it in PyTorch and save the one that you need with"
        " torch.save"
      )
    content = nested[0][1]
  raise UserError(f"contains more than {_MAX_DEPTH} dicts around a state dict; {RESAVE}")


def _has_tensors(value: Any, depth: int = _MAX_DEPTH) -> bool:
  """Returns whether a value is a dict with tensors, directly or under one of the keys of checkpoints."""
  if type(value) is not Pairs or not depth:
    return False
  return any(
    type(item) is TensorRef or (type(key) is str and key in _KEYS and _has_tensors(item, depth - 1))
    for key, item in value
  )


def of_torchscript(content: Any) -> dict[str, TensorRef]:
  """Returns {name: tensor} of a TorchScript module, named as in its state dict.

  Raises:
    UserError: there are no tensors, or modules are nested too deeply or contain each other.
  """
  tensors: dict[str, TensorRef] = {}
  modules = [("", content, 0)] if type(content) is ModuleAttributes else []
  count = 0
  while modules:
    prefix, module, depth = modules.pop()
    count += 1
    if depth > _MAX_MODULE_DEPTH or count > _MAX_MODULES:
      raise UserError(f"a TorchScript archive with modules that are nested too deeply or too many; {RESAVE}")
    for name, value in module:
      full_name = f"{prefix}{_shown(name)}"
      if type(value) is ModuleAttributes:
        modules.append((f"{full_name}.", value, depth + 1))
      elif type(value) is TensorRef:
        if full_name in tensors:
          raise UserError(f"a TorchScript archive that contains '{_shown(full_name)}' twice; {RESAVE}")
        tensors[full_name] = value
  if not tensors:
    raise UserError(f"a TorchScript archive without tensors, a program and not weights; {RESAVE}")
  return tensors


def _shown(value: object) -> str:
  return printable(value, _TEXT_LIMIT)


def _kind(value: Any) -> str:
  names = {Pairs: "dict", ModuleAttributes: "a module", OpaqueValue: "an object"}
  names |= {GlobalName: "a type or function", StorageRef: "storage", TensorRef: "tensor"}
  return names.get(type(value), type(value).__name__)
