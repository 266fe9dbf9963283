"""Prefixes that wrappers of a module add to the names of its tensors: parallelism, compilation, training code."""

from collections.abc import Mapping

import numpy as np

from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import list_first, printable
from clipvip_jax.weights import architectures

# Attributes under which training code keeps the model; removed in any order if all names begin with them.
_OUTER = ("module.", "model.", "net.", "network.", "clip.", "clip_model.", "ema_model.", "_forward_module.")
# Wrappers of submodules by FSDP, activation checkpointing and torch.compile; removed anywhere in a name.
_INNER = ("_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_orig_mod.")
_LISTED = 5  # tensors in a message
_COUNTER = "n_averaged"  # of torch.optim.swa_utils.AveragedModel, beside the prefixed tensors


def strip_wrapper_prefixes(tensors: Mapping[str, np.ndarray], source: str) -> dict[str, np.ndarray]:
  """Returns the tensors under the names that they have in the wrapped module.

  Args:
    tensors: {name: array}.
    source: their SOURCE, for error messages.

  Raises:
    UserError: two names become equal, or tensors are outside of the wrapped model.
  """
  names = _strip({name: name for name in tensors if name != _COUNTER})
  _check_no_others(names, source)
  result: dict[str, np.ndarray] = {}
  for name, stripped in names.items():
    if stripped in result:
      raise UserError(
        f"{source}: two tensors are named {printable(stripped, 160)} without the prefixes of wrappers; remove one"
      )
    result[stripped] = tensors[name]
  return result


def _strip(names: dict[str, str]) -> dict[str, str]:
  """Returns {name in the file: name without the prefixes that all names have}."""
  while True:
    for wrapper in _INNER:
      names = {name: _remove(stripped, wrapper) for name, stripped in names.items()}
    prefix = next((prefix for prefix in _OUTER if all(x.startswith(prefix) for x in names.values())), None)
    if prefix is None or not names:
      return names
    names = {name: stripped.removeprefix(prefix) for name, stripped in names.items()}


def _check_no_others(names: Mapping[str, str], source: str) -> None:
  """Checks that no tensors lie beside a CLIP whose names begin with the prefix of a wrapper."""
  if architectures.has_both_towers(names.values()):
    return
  for prefix in _OUTER:
    model = {name: stripped for name, stripped in names.items() if stripped.startswith(prefix)}
    if len(model) < len(names) and architectures.has_both_towers(_strip(model).values()):
      others = [printable(name, 160) for name in names if name not in model]
      raise UserError(
        f"{source}: {len(others)} tensors are not part of the model, whose names begin with {prefix}:"
        f" {list_first(others, _LISTED)}; remove them from the file"
      )


def _remove(name: str, wrapper: str) -> str:
  """Removes a wrapper where it is a component of a name."""
  return f".{name}".replace(f".{wrapper}", ".").removeprefix(".")
