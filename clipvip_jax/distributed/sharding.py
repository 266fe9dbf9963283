"""The device mesh and the shardings of parameters, optimizer state and batches.

| axis | shards |
|---|---|
| data | the batch |
| fsdp | the batch, and large parameters with their gradients and moments, which are gathered for the forward pass |
| tensor | heads and hidden units within a block |

`jax.jit` with these shardings replaces `pjit`: the compiler inserts the collectives. Results equal those of one device
up to the order of sums. B: global batch size, E: feature size.
"""

import functools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import jax
import numpy as np
from jax import Array
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.param_names import param_name

Tree = TypeVar("Tree")  # of arrays

DATA, FSDP, TENSOR = "data", "fsdp", "tensor"
AXES = (DATA, FSDP, TENSOR)
BATCH = (DATA, FSDP)  # mesh axes of the leading dimension of a batch

# (regular expression of the end of a parameter's name, mesh axis of each dimension). The first match applies.
# Parameters without a match (norms, output biases, proxies, position and time embeddings) are replicated, as are
# dimensions that the size of the mesh axis does not divide. Moments are sharded like their parameter.
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
  """Returns the sizes of the mesh axes, with -1 resolved.

  Args:
    config: `config.mesh`, {axis: size}, at most one of them -1; None: all devices along data.
    devices: number of devices.

  Raises:
    UserError: a size is invalid, or their product is not `devices`.
  """
  sizes = {DATA: -1, FSDP: 1, TENSOR: 1} if config is None else {axis: config[axis] for axis in AXES}
  fields = ", ".join(f"mesh.{axis}={size}" for axis, size in sizes.items())
  fixed = [size for size in sizes.values() if size != -1]
  if min(fixed, default=1) < 1 or len(fixed) < len(sizes) - 1:
    raise UserError(f"{fields}: use sizes of at least 1, one of which may be -1 for all remaining devices")
  product = math.prod(fixed)
  if devices % product or (len(fixed) == len(sizes) and product != devices):
    raise UserError(f"{fields} does not fit {devices} devices; choose sizes whose product is {devices}")
  return {axis: devices // product if size == -1 else size for axis, size in sizes.items()}


def make_mesh(config: Mapping[str, int] | None = None, devices: Sequence[jax.Device] | None = None) -> Mesh:
  """Creates the mesh. Its axes are `Auto`: the compiler chooses shardings that are not given.

  Args:
    config: see `mesh_shape`.
    devices: None: all devices of all processes.

  Raises:
    UserError: see `mesh_shape`.
  """
  sizes = tuple(mesh_shape(config, jax.device_count() if devices is None else len(devices)).values())
  types = (AxisType.Auto,) * len(AXES)
  try:
    return jax.make_mesh(sizes, AXES, axis_types=types, devices=devices)
  except NotImplementedError:  # the axes of the TPU slice have other sizes and must be split
    grid = mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    return Mesh(grid, AXES, axis_types=types)


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Returns the sharding of a batch: its leading dimension over data and fsdp."""
  return NamedSharding(mesh, PartitionSpec(BATCH))


def heads_sharding(mesh: Mesh) -> NamedSharding:
  """Returns the sharding of queries, keys and values [B, tokens, heads * width]."""
  return NamedSharding(mesh, PartitionSpec(BATCH, None, TENSOR))


def replicated(mesh: Mesh) -> NamedSharding:
  """Returns the sharding of an array that is replicated on all devices."""
  return NamedSharding(mesh, PartitionSpec())


def replicate(mesh: Mesh, tree: Tree) -> Tree:
  """Replicates sharded arrays on all devices. All processes must call it."""
  return jax.jit(lambda tree: tree, out_shardings=replicated(mesh))(tree)


def partition_spec(name: str, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
  """Returns the partition of a parameter according to RULES."""
  axes = next((axes for rule, axes in RULES if re.search(rf"(^|/){rule}$", name)), ())
  if len(axes) != len(shape):
    return PartitionSpec()
  return PartitionSpec(
    *(axis if axis and not size % mesh.shape[axis] else None for axis, size in zip(axes, shape, strict=True))
  )


def state_shardings(mesh: Mesh, state: Tree) -> Tree:
  """Returns the sharding of each array of a training state, or of a part of it, according to its name."""
  return jax.tree_util.tree_map_with_path(
    lambda path, x: NamedSharding(mesh, partition_spec(param_name(path), x.shape, mesh)), state
  )


def gather_params(mesh: Mesh, params: Tree) -> Tree:
  """Gathers parameters along fsdp for the forward pass, and reduce-scatters their gradients in the backward pass.

  Without this constraint the compiler may keep parameters sharded and move activations instead.
  """

  def gather(path, x):
    spec = partition_spec(param_name(path), x.shape, mesh)
    gathered = PartitionSpec(*(None if axis == FSDP else axis for axis in spec))
    return _gather(x, NamedSharding(mesh, spec), NamedSharding(mesh, gathered))

  return jax.tree_util.tree_map_with_path(gather, params) if mesh.shape[FSDP] > 1 else params


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _gather(x: Array, sharded: NamedSharding, gathered: NamedSharding) -> Array:
  del sharded
  return jax.lax.with_sharding_constraint(x, gathered)


def _gather_forward(x: Array, sharded: NamedSharding, gathered: NamedSharding) -> tuple[Array, None]:
  return _gather(x, sharded, gathered), None


def _gather_backward(sharded: NamedSharding, gathered: NamedSharding, residuals: None, gradient: Array) -> tuple[Array]:
  del gathered, residuals
  return (jax.lax.with_sharding_constraint(gradient, sharded),)


_gather.defvjp(_gather_forward, _gather_backward)


def check_batch_size(batch_size: int, field: str, shape: Mapping[str, int]) -> None:
  """Checks that a global batch is divisible by the shards of the mesh.

  Args:
    batch_size: number of clips.
    field: config field or flag that sets it, for the error.
    shape: sizes of the mesh axes.

  Raises:
    UserError: it is not; names the nearest sizes that are.
  """
  shards = shape[DATA] * shape[FSDP]
  if batch_size < 1 or batch_size % shards:
    below = max(batch_size // shards, 1) * shards
    raise UserError(f"{field}={batch_size} is not divisible by {shards} devices; use {below} or {below + shards}")


def data_shard(mesh: Mesh) -> tuple[int, int]:
  """Returns (index, count): the shard of every batch that this process loads, and the number of shards.

  Processes whose devices hold the same rows, because they share a tensor axis, load the same shard.
  """
  num_blocks = mesh.shape[DATA] * mesh.shape[FSDP]
  indices = batch_sharding(mesh).devices_indices_map((num_blocks,))
  blocks: dict[int, set[int]] = {}  # process -> blocks of rows on its devices
  device: jax.Device
  for device, (rows,) in indices.items():
    blocks.setdefault(device.process_index, set()).add(rows.indices(num_blocks)[0])
  shards = sorted({tuple(sorted(held)) for held in blocks.values()})
  return shards.index(tuple(sorted(blocks[jax.process_index()]))), len(shards)


def shard_batch(mesh: Mesh, batch: Mapping[str, np.ndarray]) -> dict[str, Array]:
  """Assembles global arrays, sharded over the mesh, from this process' shard of a batch (see `data_shard`)."""
  sharding, (_, count) = batch_sharding(mesh), data_shard(mesh)
  return {
    key: jax.make_array_from_process_local_data(sharding, value, (len(value) * count, *value.shape[1:]))
    for key, value in batch.items()
  }


def sharded_loss(mesh: Mesh, loss: Callable[..., Array]) -> Callable[..., Array]:
  """Returns `loss` of features [B, E] sharded over the batch; each device computes the logits of its own rows."""
  features = PartitionSpec(BATCH)
  return jax.shard_map(
    functools.partial(loss, axes=BATCH), mesh=mesh, in_specs=(features, PartitionSpec()), out_specs=PartitionSpec()
  )
