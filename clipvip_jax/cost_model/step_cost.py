"""Memory, operations, communication and time per chip of a compiled training step."""

import dataclasses
import math
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from clipvip_jax.cost_model import communication, flops, hbm_traffic, hlo_collectives
from clipvip_jax.cost_model.chips import Chip
from clipvip_jax.cost_model.collective import Collective
from clipvip_jax.distributed import sharding
from clipvip_jax.models import clip_vip
from clipvip_jax.runs.train_state import AveragedTrainState, TrainState
from clipvip_jax.training import optimizer
from clipvip_jax.training.losses import LOSSES, Loss
from clipvip_jax.training.train_step import jit_train_step, state_shapes


class OutOfMemory(Exception):
  """The step does not fit into a chip's memory according to the compiler.

  Attributes:
    used: bytes that it needs; 0: unknown.
  """

  def __init__(self, used: float):
    super().__init__("the step does not fit a chip's memory")
    self.used = used


@dataclasses.dataclass(frozen=True)
class Cost:
  """Cost of one step; bytes and operations are per chip.

  Attributes:
    memory: {part: bytes}.
    flops: as the compiler counts them, a loop once; too small with microbatches.
    hbm: {module: bytes read from and written to memory}, loops by their trips; see hbm_traffic.py.
    collectives: of the compiled program; see hlo_collectives.py.
    needed: collectives of the method; see communication.py.
    counted: operations of all chips, by part; see `flops.step`.
    seconds: compilation time.
  """

  memory: Mapping[str, float]
  flops: float
  hbm: Mapping[str, float]
  collectives: Sequence[Collective]
  needed: Sequence[Collective]
  counted: Mapping[str, int]
  seconds: float

  @property
  def memory_used(self) -> float:
    """Bytes per chip."""
    return sum(self.memory.values())

  @property
  def hbm_bytes(self) -> float:
    """Bytes that a step reads from and writes to the memory of a chip."""
    return sum(self.hbm.values())


def batch_shapes(config: ConfigDict, loss: Loss) -> dict[str, jax.ShapeDtypeStruct]:
  """Returns the shapes of the global batch of a run; see `train_step.embed_batch`."""
  count, side = config.train.batch_size, config.model.image_size
  shapes = {"video": (count, config.data.num_frames, side, side, 3), "frame": (count, side, side, 3)}
  batch = {name: jax.ShapeDtypeStruct(shape, config.data.pixels) for name, shape in shapes.items() if name in loss.uses}
  for name in sorted(loss.uses & {"subtitle", "caption"}):
    batch[name] = jax.ShapeDtypeStruct((count, config.data.text_length), jnp.int32)
    batch[f"{name}_mask"] = jax.ShapeDtypeStruct((count,), jnp.bool_)
  return batch


def measure(config: ConfigDict, mesh: Mesh) -> Cost:
  """Compiles the training step of a run for the devices of `mesh`.

  Raises:
    OutOfMemory: the compiler cannot fit the step into memory.
    UserError: invalid configuration, as for a run.
  """
  sizes = config.model.copy_and_resolve_references()
  device = mesh.devices.flat[0]
  if not (sizes.get("attention") == "pallas" and device.platform == "tpu"):
    with sizes.unlocked():
      sizes.attention = "xla"  # kernels of GPUs need a GPU
  model, loss = clip_vip.from_config(sizes), LOSSES[config.loss]
  tx, lr_schedule = optimizer.from_config(config.optimizer, max(config.train.num_steps, 1))
  with jax.default_device(device):  # which attention is chosen for, here and below
    state, batch = state_shapes(config, model, tx), batch_shapes(config, loss)
  optimizer.check_names(config.optimizer, state.params)
  # CPU devices stand in for GPUs and run nothing, so optimization would be wasted.
  options: Any = {"xla_backend_optimization_level": 0} if device.platform == "cpu" else {}
  step, started = jit_train_step(config, model, loss, tx, lr_schedule, mesh, state), time.monotonic()
  try:
    with jax.default_device(device):
      lowered = step.lower(state, batch)
    compiled = lowered.compile(options)
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise
    raise OutOfMemory(used_bytes(str(error))) from error
  return cost_of(compiled, config, mesh, state, time.monotonic() - started)


def cost_of(compiled: jax.stages.Compiled, config: ConfigDict, mesh: Mesh, state: TrainState, seconds: float) -> Cost:
  """Returns the cost of a compiled training step.

  Args:
    compiled: the step.
    config: the complete configuration.
    mesh: of the step.
    state: shapes of the training state.
    seconds: compilation time.
  """
  hlo = compiled.as_text() or ""
  analysis: Any = compiled.cost_analysis()
  return Cost(
    memory=_memory(compiled.memory_analysis(), mesh, state, batch_shapes(config, LOSSES[config.loss])),
    flops=analysis["flops"],
    hbm=hbm_traffic.by_module(hlo),
    collectives=hlo_collectives.read_collectives(hlo, mesh.size),
    needed=communication.required_collectives(config, mesh, state.params),
    counted=flops.step(config),
    seconds=seconds,
  )


def used_bytes(message: str) -> float:
  """Parses the bytes of `Used 17.53G of 15.75G hbm` in the compiler's message; 0 if absent."""
  match = re.search(r"Used ([\d.]+)([KMGT]?) of [\d.]+[KMGT]? hbm", message)
  return float(match[1]) * 1024 ** " KMGT".index(match[2] or " ") if match else 0.0


def _memory(analysis: Any, mesh: Mesh, state: TrainState, batch: Mapping[str, Any]) -> dict[str, float]:
  parts: dict[str, Any] = {"parameters": state.params, "optimizer moments": state.opt_state}
  if isinstance(state, AveragedTrainState):
    parts["average of the parameters"] = state.average
  held = {name: _held(mesh, part) for name, part in parts.items()}
  shares = mesh.shape[sharding.DATA] * mesh.shape[sharding.FSDP]
  inputs = sum(x.size * x.dtype.itemsize for x in batch.values()) / shares
  arguments = analysis.argument_size_in_bytes
  return {
    **held,
    "batch": inputs,
    "gradients, activations, temporaries": analysis.temp_size_in_bytes,
    # Padding of arrays, results that do not alias an argument, and the program.
    "padding and program": max(0, arguments - sum(held.values()) - inputs)
    + max(0, analysis.output_size_in_bytes - analysis.alias_size_in_bytes)
    + analysis.generated_code_size_in_bytes,
  }


def _held(mesh: Mesh, tree: Any) -> float:
  """Returns the bytes of a part of the state on one chip."""
  shardings = sharding.state_shardings(mesh, tree)
  sizes = jax.tree.map(lambda x, s: math.prod(s.shard_shape(x.shape)) * x.dtype.itemsize, tree, shardings)
  return sum(jax.tree.leaves(sizes))


def fits(used: float, chip: Chip) -> bool:
  """Returns whether `used` bytes fit into a chip's memory."""
  return used <= chip.usable * chip.hbm


def step_seconds(cost: Cost, chip: Chip, count: int, *, loops: bool) -> dict[str, float]:
  """Returns lower bounds of a step's seconds by compute, memory and interconnect; the largest bounds the step.

  Args:
    cost: of the step.
    chip: its published peaks.
    count: number of chips.
    loops: whether the step has loops, which the compiler counts once; `cost.counted` is then used in place of it.
  """
  operations = sum(cost.counted.values()) / count if loops else cost.flops
  return {
    "compute": operations / chip.flops,
    "memory": cost.hbm_bytes / chip.hbm_bandwidth,
    "interconnect": sum(collective.sent / chip.sending(collective.span) for collective in cost.collectives),
  }


def clips_that_fit(points: Mapping[int, float], chip: Chip, multiple: int) -> int:
  """Returns the largest number of clips per chip that fits, extrapolated linearly from two points; 0 if none.

  Args:
    points: {clips per chip: bytes per chip}.
    chip: whose memory must suffice.
    multiple: of which the result is one: `train.num_microbatches`.
  """
  (few, least), (many, most) = sorted(points.items())
  slope = (most - least) / (many - few)
  room = chip.usable * chip.hbm - least
  return max(0, math.floor(few + room / slope)) // multiple * multiple
