"""Report of what a run's training step costs on hardware that need not be present.

`step_cost.py` compiles the step and determines its memory, operations and traffic.
"""

import dataclasses
import time
from typing import Any

import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from clipvip_jax.cost_model import chips, step_cost
from clipvip_jax.cost_model.collective import total_bytes
from clipvip_jax.distributed import sharding
from clipvip_jax.models import attention
from clipvip_jax.training import config_checks
from clipvip_jax.training.model_sizes import fill_sizes
from clipvip_jax.utils.log import log
from clipvip_jax.utils.progress import format_duration, report_periodically

_REPORT_INTERVAL = 30  # seconds between two lines while compiling


def step_report(config: ConfigDict, topology: str, *, largest_batch: bool = False) -> dict[str, Any]:
  """Compiles the training step of `config` for a topology and reports its cost.

  Args:
    config: the complete configuration of a run.
    topology: a chip and their number, as in "v5e:4x8" or "h100:8".
    largest_batch: whether to compile a second batch size and extrapolate the largest that fits.

  Returns:
    The report that `--json` writes and `preflight_table.lines` formats; without costs if the step does not fit.

  Raises:
    UserError: invalid configuration or topology, as for a run on as many devices.
  """
  chip, count = chips.parse_topology(topology)
  devices = chips.devices(topology)
  config = fill_sizes(config)
  config_checks.check_recipe(config, count)
  kernels = attention.TPU_KERNELS if chip.is_tpu else attention.GPU_KERNELS
  attention.check_implementation(config.model.attention, jnp.dtype(config.model.dtype), kernels, chip.kind)
  config = with_largest_step(config)
  mesh = sharding.make_mesh(config.mesh, devices)
  shards = mesh.shape[sharding.DATA] * mesh.shape[sharding.FSDP]
  used, cost = _measure(config, mesh)
  report = {
    "topology": topology,
    "chips": count,
    "mesh": dict(mesh.shape),
    "batch": config.train.batch_size,
    "clips_of_a_chip": config.train.batch_size // shards,
    "hbm": chip.hbm,
    "usable": chip.usable * chip.hbm,
    "memory_is_estimated": not chip.is_tpu,
    "memory_used": used,
    "fits": cost is not None and step_cost.fits(used, chip),
  }
  if cost:
    report |= _costs(cost, chip, count, loops=config.train.num_microbatches > 1)
  if largest_batch:
    report["largest_batch"] = _largest_batch(config, mesh, chip, used)
  return report


def with_largest_step(config: ConfigDict) -> ConfigDict:
  """Returns the configuration without patch dropout if a run's last steps see all patches, since those must fit."""
  if not (config.model.patch_dropout and config.train.unmasked_fraction):
    return config
  log.info("model.patch_dropout: reporting the last steps, which see all patches (train.unmasked_fraction)")
  unmasked = config.copy_and_resolve_references()
  with unmasked.unlocked():
    unmasked.model.patch_dropout = 0.0
  return unmasked


def _measure(config: ConfigDict, mesh: Mesh) -> tuple[float, step_cost.Cost | None]:
  """Returns (bytes per chip, cost); no cost if the step does not fit."""
  task = f"compiling the step for a batch of {config.train.batch_size}"
  log.info("%s; full-size models take minutes", task)
  started = time.monotonic()
  try:
    with report_periodically(
      lambda: f"still {task}, {format_duration(time.monotonic() - started)} elapsed", interval=_REPORT_INTERVAL
    ):
      cost = step_cost.measure(config, mesh)
  except step_cost.OutOfMemory as error:
    return error.used, None
  return cost.memory_used, cost


def _costs(cost: step_cost.Cost, chip: chips.Chip, count: int, *, loops: bool) -> dict[str, Any]:
  """Returns the part of the report that needs a compiled step."""
  seconds = step_cost.step_seconds(cost, chip, count, loops=loops)
  useful = sum(cost.counted.values()) - cost.counted["recomputed"]
  by_kind: dict[str, dict[str, float]] = {}
  for collective in cost.collectives:
    kind = by_kind.setdefault(collective.kind, {"count": 0, "sent": 0.0})
    kind["count"] += collective.times
    kind["sent"] += collective.sent
  return {
    "memory": dict(cost.memory),
    "flops_compiled": None if loops else cost.flops * count,
    "flops_counted": dict(cost.counted),
    "collectives": by_kind,
    "collectives_needed": [dataclasses.asdict(needed) | {"sent": needed.sent} for needed in cost.needed],
    "sent": total_bytes(cost.collectives),
    "sent_needed": total_bytes(cost.needed),
    "hbm_bytes": cost.hbm_bytes,
    "hbm_by_module": dict(cost.hbm),
    "seconds": seconds,
    "mfu": useful / (count * chip.flops * max(seconds.values())),
    "seconds_to_compile": cost.seconds,
  }


def _largest_batch(config: ConfigDict, mesh: Mesh, chip: chips.Chip, used: float) -> int | None:
  """Returns the largest global batch that fits, extrapolated from two batch sizes; None if it is unknown."""
  shards = mesh.shape[sharding.DATA] * mesh.shape[sharding.FSDP]
  per_chip, multiple = config.train.batch_size // shards, config.train.num_microbatches
  other_per_chip = per_chip // 2 // multiple * multiple or 2 * per_chip
  other = config.copy_and_resolve_references()
  with other.unlocked():
    other.train.batch_size = other_per_chip * shards
  other_used, _ = _measure(other, mesh)
  points = {per_chip: used, other_per_chip: other_used}
  few, many = (points[clips] for clips in sorted(points))
  if not 0 < few < many:
    return None
  return shards * step_cost.clips_that_fit(points, chip, multiple)
