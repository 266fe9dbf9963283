"""Compiles a run's training step for hardware that is not there: does it fit, and what does it cost?

  python -m clipvip_jax.preflight --config=configs/post_pretrain.py:b16 --topology=v5e:4x8 [--config.FIELD=VALUE ...]

For TPU slices (v5e, v5p, v6e) libtpu compiles, as on the slice itself. For GPUs (a100:8, h100:8, h200:16) as many CPU
devices stand in: operations and communication are what XLA's partitioner gives there, memory is an estimate from above,
since CPUs keep in float32 what GPUs keep in bfloat16 and have no cuDNN. Times follow from the chips' published peaks:
to compute and to send takes at least that long; as memory's bytes the compiler counts all that instructions read and
write, also what never leaves the chip, so that may take less. Exit codes: 0 it fits; 1 it does not; 2 bad input.
"""

import contextlib
import dataclasses
import pathlib
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

from clipvip_jax.cost_model import chips, preflight_table
from clipvip_jax.utils import config_tree, recipe_flags
from clipvip_jax.utils.cli import Parser, run_command
from clipvip_jax.utils.log import log
from clipvip_jax.utils.progress import format_duration

DOES_NOT_FIT = 1
_EVERY = 30  # seconds between two lines while the compiler says nothing


@contextlib.contextmanager
def _waiting(what: str) -> Iterator[None]:
  """Says what is done and, now and then, that it is still being done."""
  over, started = threading.Event(), time.monotonic()

  def speak():
    while not over.wait(_EVERY):
      log.info("still %s, since %s", what, format_duration(time.monotonic() - started))

  log.info("%s; full-size models take minutes", what)
  thread = threading.Thread(target=speak, daemon=True)
  thread.start()
  try:
    yield
  finally:
    over.set()
    thread.join()


def preflight(config: Any, topology: str, *, largest_batch: bool = False) -> dict[str, Any]:
  """Everything that is known of the step of `config` on a topology: what --json holds.

  Raises:
    UserError: bad input, as for a run on so many devices.
  """
  chip, count = chips.parse_topology(topology)
  devices = chips.devices(topology)
  from clipvip_jax.cost_model import step_cost
  from clipvip_jax.distributed import sharding
  from clipvip_jax.training import setup

  setup.check_recipe(config, count)
  config = _of_whole_clips(config)
  mesh = sharding.make_mesh(config.mesh, devices)
  shares = mesh.shape[sharding.DATA] * mesh.shape[sharding.FSDP]
  report = {
    "topology": topology,
    "chips": count,
    "mesh": dict(mesh.shape),
    "batch": config.train.batch_size,
    "clips_of_a_chip": config.train.batch_size // shares,
    "hbm": chip.hbm,
    "usable": chip.usable * chip.hbm,
    "memory_is_estimated": not chip.is_tpu,
  }
  used, cost = _measure(config, mesh)
  report |= {"memory_used": used, "fits": cost is not None and step_cost.fits(used, chip)}
  if cost:
    report |= _costs(cost, chip, count, config)
  if largest_batch:
    report["largest_batch"] = _largest_batch(config, mesh, chip, shares, used)
  return report


def _of_whole_clips(config: Any) -> Any:
  """Where the last steps see the patches that others leave out, theirs is the step that must fit."""
  if not (config.model.patch_dropout and config.train.unmasked_fraction):
    return config
  log.info("model.patch_dropout: figures are of the last steps, which see whole clips (train.unmasked_fraction)")
  whole = config.copy_and_resolve_references()
  with whole.unlocked():
    whole.model.patch_dropout = 0.0
  return whole


def _measure(config: Any, mesh: Any) -> tuple[float, Any]:
  """(bytes of a chip, cost; None where the compiler refused)."""
  from clipvip_jax.cost_model import step_cost

  try:
    with _waiting(f"compiling the step for a batch of {config.train.batch_size}"):
      cost = step_cost.measure(config, mesh)
  except step_cost.TooLarge as error:
    return error.used, None
  return cost.memory_used, cost


def _costs(cost: Any, chip: chips.Chip, count: int, config: Any) -> dict[str, Any]:
  from clipvip_jax.cost_model import hlo_collectives, step_cost

  loops = config.train.num_microbatches > 1
  seconds = step_cost.step_seconds(cost, chip, count, loops=loops)
  useful = sum(cost.counted.values()) - cost.counted["again"]
  found: dict[str, dict[str, float]] = {}
  for one in cost.collectives:
    kind = found.setdefault(one.kind, {"count": 0, "sent": 0.0})
    kind["count"] += one.times
    kind["sent"] += one.sent
  return {
    "memory": dict(cost.memory),
    "flops_compiled": None if loops else cost.flops * count,
    "flops_counted": dict(cost.counted),
    "collectives": found,
    "collectives_needed": [dataclasses.asdict(one) | {"sent": one.sent} for one in cost.needed],
    "sent": hlo_collectives.total_bytes(cost.collectives),
    "sent_needed": hlo_collectives.total_bytes(cost.needed),
    "hbm_bytes": cost.hbm_bytes,
    "seconds": seconds,
    "mfu": useful / (count * chip.flops * max(seconds.values())),
    "seconds_to_compile": cost.seconds,
  }


def _largest_batch(config: Any, mesh: Any, chip: chips.Chip, shares: int, used: float) -> int | None:
  """The largest global batch that fits, by a line through what two batches take; None where nothing is known."""
  from clipvip_jax.cost_model import step_cost

  share, multiple = config.train.batch_size // shares, config.train.num_microbatches
  other = share // 2 // multiple * multiple or 2 * share
  second = config.copy_and_resolve_references()
  with second.unlocked():
    second.train.batch_size = other * shares
  other_used, _ = _measure(second, mesh)
  if not (used and other_used):
    return None
  return shares * step_cost.share_that_fits({share: used, other: other_used}, chip, multiple)


def main(argv: Sequence[str] | None = None) -> None:
  """Reads options, compiles, prints."""
  parser = Parser(__doc__)
  parser.add_argument("--config", required=True, help="a recipe, with variants behind a colon, as for a run")
  parser.add_argument("--topology", required=True, help="a chip and how many, as in v5e:4x8 or h100:8")
  parser.add_argument("--json", type=pathlib.Path, help="a file for the same numbers")
  parser.add_argument("--largest_batch", action="store_true", help="compile another batch, too: how large may it be?")
  options, overrides = parser.parse_known_args(argv)
  chips.parse_topology(options.topology)
  config = recipe_flags.parse_config([f"--config={options.config}", *overrides])
  report = {"config": options.config} | preflight(config, options.topology, largest_batch=options.largest_batch)
  print("\n".join(preflight_table.lines(report)))
  if options.json:
    config_tree.write_json(options.json, report)
    log.info("wrote %s", options.json)
  if not report["fits"]:
    sys.exit(DOES_NOT_FIT)


if __name__ == "__main__":
  run_command(main)
