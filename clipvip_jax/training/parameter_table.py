"""Overview of a run's parameters: one line in the log, and all of them in parameters.txt."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from clu import parameter_overview

from clipvip_jax.training.optimizer import is_frozen
from clipvip_jax.utils.atomic_write import atomic_path
from clipvip_jax.utils.log import log
from clipvip_jax.utils.param_names import param_name

NAME = "parameters.txt"


def write_parameter_table(workdir: pathlib.Path, params: Mapping[str, Any], frozen: Sequence[str]) -> None:
  """Writes name, shape, type, size and sharding of each parameter, and logs the totals by module.

  Args:
    workdir: the run's folder.
    params: arrays or `jax.ShapeDtypeStruct`s with shardings.
    frozen: name prefixes of parameters that are not trained.

  Raises:
    OSError: the file cannot be written.
  """
  with atomic_path(workdir / NAME) as temporary:
    table = parameter_overview.get_parameter_overview(params, include_stats="sharding")
    temporary.write_text(f"{table}\n", encoding="utf-8")
  log.info("parameters: %s; listed in %s", format_totals(params, frozen), NAME)


def format_totals(params: Mapping[str, Any], frozen: Sequence[str]) -> str:
  """Formats the numbers of parameters: `151,284,481 (text 63,428,096, vision 87,856,384)`, and how many are frozen."""
  sizes = {param_name(path): x.size for path, x in jax.tree_util.tree_leaves_with_path(params)}
  modules: dict[str, int] = {}
  for name, size in sizes.items():
    if "/" in name:  # the logit scale is no module
      module = name.partition("/")[0]
      modules[module] = modules.get(module, 0) + size
  parts = ", ".join(f"{name} {size:,}" for name, size in modules.items())
  num_frozen = sum(size for name, size in sizes.items() if is_frozen(name, frozen))
  return f"{sum(sizes.values()):,} ({parts})" + (f", {num_frozen:,} of them frozen" if num_frozen else "")
