"""What the compiled training step of a configuration costs on each chip: memory, operations, communication, time."""

import dataclasses
import math
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from clipvip_jax.cost_model import flops, hlo_collectives
from clipvip_jax.cost_model.chips import Chip
from clipvip_jax.distributed import sharding
from clipvip_jax.models import clip_vip
from clipvip_jax.runs.train_state import TrainState
from clipvip_jax.training import optimizer
from clipvip_jax.training.losses import LOSSES, Loss
from clipvip_jax.training.train_step import init_state, jit_train_step


class TooLarge(Exception):
  """The compiler found no way to fit the step into a chip's memory. `used`: bytes that it would take, 0 if unknown."""

  def __init__(self, used: float):
    super().__init__("the step does not fit a chip's memory")
    self.used = used


@dataclasses.dataclass(frozen=True)
class Cost:
  """Of one step; bytes and operations are those of one chip.

  Attributes:
    memory: part -> bytes.
    flops, hbm_bytes: as the compiler counts them. A loop counts once, so under accumulation they are too small.
    collectives: see `collectives.read`.
    needed: see `collectives.needed`.
    counted: operations of all chips, by part: see `flops.step`.
    seconds: to compile.
  """

  memory: Mapping[str, float]
  flops: float
  hbm_bytes: float
  collectives: Sequence[hlo_collectives.Collective]
  needed: Sequence[hlo_collectives.Collective]
  counted: Mapping[str, int]
  seconds: float

  @property
  def memory_used(self) -> float:
    """Bytes of a chip."""
    return sum(self.memory.values())


def batch_shapes(config: Any, loss: Loss) -> dict[str, jax.ShapeDtypeStruct]:
  """The global batch that the input pipeline gives a run; see `train_step.embed_batch`."""
  count, side = config.train.batch_size, config.model.image_size
  shapes = {"video": (count, config.data.num_frames, side, side, 3), "frame": (count, side, side, 3)}
  found = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items() if name in loss.uses}
  for name in sorted(loss.uses & {"subtitle", "caption"}):
    found[name] = jax.ShapeDtypeStruct((count, config.data.text_length), jnp.int32)
    found[f"{name}_mask"] = jax.ShapeDtypeStruct((count,), jnp.bool_)
  return found


def state_shapes(config: Any, model: clip_vip.ClipVip, chain: Any) -> TrainState:
  """The shapes of a run's state."""
  return jax.eval_shape(lambda: init_state(model, chain, config.model, config.seed))


def measure(config: Any, mesh: Mesh) -> Cost:
  """Compiles the step that a run of `config` would call, for the devices of `mesh`.

  Raises:
    TooLarge: the compiler says that it does not fit.
    UserError: bad input, as for a run.
  """
  sizes = config.model.copy_and_resolve_references()
  with sizes.unlocked():
    sizes.attention = "xla"  # cuDNN is not here
  model, loss = clip_vip.from_config(sizes), LOSSES[config.loss]
  chain, rate = optimizer.from_config(config.optimizer, max(config.train.num_steps, 1))
  state, batch = state_shapes(config, model, chain), batch_shapes(config, loss)
  optimizer.check_names(config.optimizer, state.params)
  # CPU devices only stand in: nothing runs there, so the compiler need not make it fast.
  options = {"xla_backend_optimization_level": 0} if mesh.devices.flat[0].platform == "cpu" else {}
  step, started = jit_train_step(config, model, loss, chain, rate, mesh, state), time.monotonic()
  try:
    compiled = step.lower(state, batch).compile(options)
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise
    raise TooLarge(_used(str(error))) from error
  seconds = time.monotonic() - started
  analysis = compiled.cost_analysis()
  return Cost(
    memory=_memory(compiled.memory_analysis(), mesh, state, batch),
    flops=analysis["flops"],
    hbm_bytes=analysis["bytes accessed"],
    collectives=hlo_collectives.read_collectives(compiled.as_text(), mesh.size),
    needed=hlo_collectives.required_collectives(config, mesh, state.params),
    counted=flops.step(config),
    seconds=seconds,
  )


def _used(message: str) -> float:
  """Bytes, from `Used 17.53G of 15.75G hbm`."""
  found = re.search(r"Used ([\d.]+)([KMGT]?) of [\d.]+[KMGT]? hbm", message)
  return float(found[1]) * 1024 ** " KMGT".index(found[2] or " ") if found else 0.0


def _memory(analysis: Any, mesh: Mesh, state: TrainState, batch: Mapping[str, Any]) -> dict[str, float]:
  params, moments = (_held(mesh, part) for part in (state.params, state.opt_state))
  shares = mesh.shape[sharding.DATA] * mesh.shape[sharding.FSDP]
  inputs = sum(x.size * x.dtype.itemsize for x in batch.values()) / shares
  arguments = analysis.argument_size_in_bytes
  return {
    "parameters": params,
    "optimiser moments": moments,
    "batch": inputs,
    "gradients, activations, temporaries": analysis.temp_size_in_bytes,
    # What arrays take beyond their elements, results that replace no argument, and the program itself.
    "padding and program": max(0, arguments - params - moments - inputs)
    + max(0, analysis.output_size_in_bytes - analysis.alias_size_in_bytes)
    + analysis.generated_code_size_in_bytes,
  }


def _held(mesh: Mesh, tree: Any) -> float:
  """Bytes of a part of the state on one chip."""
  placed = sharding.state_shardings(mesh, tree)
  sizes = jax.tree.map(lambda x, where: math.prod(where.shard_shape(x.shape)) * x.dtype.itemsize, tree, placed)
  return sum(jax.tree.leaves(sizes))


def fits(used: float, chip: Chip) -> bool:
  """Whether so many bytes fit a chip's memory."""
  return used <= chip.usable * chip.hbm


def step_seconds(cost: Cost, chip: Chip, count: int, *, loops: bool) -> dict[str, float]:
  """Seconds of a step by what a chip computes, reads and writes, and sends; the largest bounds the step.

  Args:
    count: of chips.
    loops: whether the step has loops, which the compiler counts once; our own count then stands for its.
  """
  operations = sum(cost.counted.values()) / count if loops else cost.flops
  return {
    "compute": operations / chip.flops,
    "memory": cost.hbm_bytes / chip.hbm_bandwidth,
    "interconnect": sum(one.sent / chip.sending(one.span) for one in cost.collectives),
  }


def share_that_fits(points: Mapping[int, float], chip: Chip, multiple: int) -> int:
  """The most clips of a chip that fit, by a line through two points; 0: not even `multiple` of them.

  Args:
    points: clips of a chip -> bytes of it.
    multiple: of which the answer must be one: `train.num_microbatches`.
  """
  (few, least), (many, most) = sorted(points.items())
  slope = (most - least) / (many - few)
  room = chip.usable * chip.hbm - least
  return max(0, math.floor(few + room / slope)) // multiple * multiple
