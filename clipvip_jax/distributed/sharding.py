"""The device mesh, and where arrays live on it.

| axis | splits |
|---|---|
| data | the batch |
| fsdp | the batch, and every large parameter with its gradient and moments: gathered when a block needs it |
| tensor | heads and hidden units within a block |

`jax.jit` with these shardings is what `pjit` has become: the compiler adds the communication that they ask for. The
numbers are those of one device, up to the order of sums. Letters: B global batch.
"""

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.param_names import param_name

DATA, FSDP, TENSOR = "data", "fsdp", "tensor"
AXES = (DATA, FSDP, TENSOR)
BATCH = (DATA, FSDP)  # the axes over which a batch is split

# The end of a parameter's name -> the axis that splits each of its dimensions. The first that matches; a parameter that
# none matches (norms, biases of outputs, proxies, embeddings of time and position) is whole on every device, and so is
# a dimension that its axis does not divide. Moments go where their parameter goes.
RULES: tuple[tuple[str, tuple[str | None, ...]], ...] = (
  (r"attention/(query|key|value)/kernel", (FSDP, TENSOR)),
  (r"attention/(query|key|value)/bias", (TENSOR,)),
  (r"attention/out/kernel", (TENSOR, FSDP)),
  (r"mlp/up/kernel", (FSDP, TENSOR)),
  (r"mlp/up/bias", (TENSOR,)),
  (r"mlp/down/kernel", (TENSOR, FSDP)),
  (r"token_embedding", (FSDP, None)),
  (r"patch_embedding", (None, None, None, FSDP)),
  (r"projection/kernel", (FSDP, None)),
)


def mesh_shape(config: Mapping[str, int] | None, devices: int) -> dict[str, int]:
  """Sizes of the axes of `config.mesh`; -1 stands for what the others leave. None: all devices along data.

  Raises:
    UserError: the sizes are not those of `devices`.
  """
  sizes = {DATA: -1, FSDP: 1, TENSOR: 1} if config is None else {axis: config[axis] for axis in AXES}
  said = ", ".join(f"mesh.{axis}={size}" for axis, size in sizes.items())
  wrong = [axis for axis, size in sizes.items() if size != -1 and size < 1]
  free = [axis for axis, size in sizes.items() if size == -1]
  if wrong or len(free) > 1:
    raise UserError(f"{said}: each must be at least 1, and one may be -1, which is what the others leave")
  known = int(np.prod([size for size in sizes.values() if size != -1]))
  if devices % known or (not free and known != devices):
    raise UserError(f"{said} does not fit {devices} devices: the product must be {devices}")
  return {axis: devices // known if size == -1 else size for axis, size in sizes.items()}


def make_mesh(config: Mapping[str, int] | None = None, devices: Sequence[Any] | None = None) -> Mesh:
  """The mesh of `config.mesh`. The compiler chooses what is not said (`Auto`).

  Args:
    devices: None: all of all processes.

  Raises:
    UserError: see `mesh_shape`.
  """
  sizes = tuple(mesh_shape(config, jax.device_count() if devices is None else len(devices)).values())
  types = (AxisType.Auto,) * len(AXES)
  try:
    return jax.make_mesh(sizes, AXES, axis_types=types, devices=devices)
  except NotImplementedError:  # no axes of a TPU slice have these sizes, so some of its axes serve two of ours
    grid = mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    return Mesh(grid, AXES, axis_types=types)


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """The leading axis split over the mesh."""
  return NamedSharding(mesh, PartitionSpec(BATCH))


def replicated(mesh: Mesh) -> NamedSharding:
  """A whole copy on each device."""
  return NamedSharding(mesh, PartitionSpec())


def replicate(mesh: Mesh, tree: Any) -> Any:
  """A copy of split arrays on each device. All processes must call it."""
  return jax.jit(lambda tree: tree, out_shardings=replicated(mesh))(tree)


def partition_spec(name: str, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
  """Where a parameter of this name and shape is split, by RULES."""
  axes = next((axes for rule, axes in RULES if re.search(rf"(^|/){rule}$", name)), ())
  if len(axes) != len(shape):
    return PartitionSpec()
  return PartitionSpec(
    *(axis if axis and not size % mesh.shape[axis] else None for axis, size in zip(axes, shape, strict=True))
  )


def state_shardings(mesh: Mesh, state: Any) -> Any:
  """The sharding of every array of a state (parameters, moments, counters), or of a part of it, by its name."""
  return jax.tree_util.tree_map_with_path(
    lambda path, x: NamedSharding(mesh, partition_spec(param_name(path), x.shape, mesh)), state
  )


def gather_params(mesh: Mesh, params: Any) -> Any:
  """Parameters whole along fsdp, as the towers need them; their gradients are split again where they are summed.

  Without it the compiler may leave parameters where they are and move activations instead.
  """

  def one(path, x):
    spec = partition_spec(param_name(path), x.shape, mesh)
    whole = PartitionSpec(*(None if axis == FSDP else axis for axis in spec))
    return _gathered(x, NamedSharding(mesh, spec), NamedSharding(mesh, whole))

  return jax.tree_util.tree_map_with_path(one, params) if mesh.shape[FSDP] > 1 else params


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _gathered(x: Any, split: NamedSharding, whole: NamedSharding) -> Any:
  del split
  return jax.lax.with_sharding_constraint(x, whole)


def _gathered_forward(x, split, whole):
  return _gathered(x, split, whole), None


def _gathered_backward(split, whole, residuals, gradient):
  del whole, residuals
  return (jax.lax.with_sharding_constraint(gradient, split),)


_gathered.defvjp(_gathered_forward, _gathered_backward)


def check_batch_size(batch_size: int, field: str, shape: Mapping[str, int]) -> None:
  """Refuses a global batch that the mesh cannot share evenly.

  Raises:
    UserError: names the sizes next to it that it can.
  """
  shares = shape[DATA] * shape[FSDP]
  if batch_size < 1 or batch_size % shares:
    below = max(batch_size // shares, 1) * shares
    raise UserError(
      f"{field}={batch_size} cannot be divided by {shares} devices; the nearest sizes are {below} and {below + shares}"
    )


def data_shard(mesh: Mesh) -> tuple[int, int]:
  """(index, count): which of how many equal shares of every batch this process loads.

  Processes whose devices hold the same rows, as parts of one tensor axis, load the same share.
  """
  count = mesh.shape[DATA] * mesh.shape[FSDP]
  rows = batch_sharding(mesh).devices_indices_map((count,))
  held: dict[int, set[int]] = {}
  device: Any
  for device, (row,) in rows.items():
    held.setdefault(device.process_index, set()).add(row.indices(count)[0])
  shares = sorted({tuple(sorted(found)) for found in held.values()})
  return shares.index(tuple(sorted(held[jax.process_index()]))), len(shares)


def shard_batch(mesh: Mesh, batch: Mapping[str, np.ndarray]) -> dict[str, Any]:
  """This process' share of a batch (see `data_shard`) -> global arrays, split over the mesh."""
  sharding, (_, count) = batch_sharding(mesh), data_shard(mesh)
  return {
    key: jax.make_array_from_process_local_data(sharding, value, (len(value) * count, *value.shape[1:]))
    for key, value in batch.items()
  }


def sharded_loss(mesh: Mesh, loss: Callable) -> Callable:
  """A loss of features [B, E] that are split over the mesh: each device computes the rows of its own clips."""
  split = PartitionSpec(BATCH)
  return jax.shard_map(
    functools.partial(loss, axes=BATCH), mesh=mesh, in_specs=(split, PartitionSpec()), out_specs=PartitionSpec()
  )
