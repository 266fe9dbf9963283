"""The device mesh, and where arrays live on it.

Parameters and optimiser state are on every device, a batch is split over all of them. `jax.jit` with these shardings is
what `pjit` has become: the compiler adds the communication, so the loss of a sharded batch is that of the global one.
"""

from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from clipvip_jax.errors import UserError

DATA = "data"


def make_mesh() -> Mesh:
  """All devices of all processes along one axis. The compiler chooses what is not said (`Auto`)."""
  return jax.make_mesh((jax.device_count(),), (DATA,), axis_types=(AxisType.Auto,))


def split_over_batch(mesh: Mesh) -> NamedSharding:
  """The leading axis split over the mesh."""
  return NamedSharding(mesh, PartitionSpec(DATA))


def on_every_device(mesh: Mesh) -> NamedSharding:
  """A whole copy on each device."""
  return NamedSharding(mesh, PartitionSpec())


def check_batch_size(batch_size: int, field: str) -> None:
  """Refuses a global batch that the devices cannot share evenly.

  Raises:
    UserError: names the sizes next to it that they can.
  """
  devices = jax.device_count()
  if batch_size < 1 or batch_size % devices:
    below = max(batch_size // devices, 1) * devices
    raise UserError(
      f"{field}={batch_size} cannot be divided by {devices} devices; "
      f"the nearest sizes are {below} and {below + devices}"
    )


def shard_batch(mesh: Mesh, batch: dict[str, np.ndarray]) -> dict[str, Any]:
  """This process' share of a batch -> global arrays, split over the mesh."""
  sharding = split_over_batch(mesh)
  return {key: jax.make_array_from_process_local_data(sharding, value) for key, value in batch.items()}


def initialize_distributed(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
  """Joins the processes of a launch into one; what is None, JAX finds in SLURM's, Cloud TPU's or MPI's environment.

  Raises:
    UserError: the launch does not say enough.
  """
  jax.config.update("jax_cpu_collectives_implementation", "gloo")  # CPU devices of several processes
  try:
    jax.distributed.initialize(coordinator, num_processes, process_id)
  except ValueError as error:
    raise UserError(
      f"cannot join a distributed launch: {error}. Name it with --coordinator=HOST:PORT --num_processes=N "
      "--process_id=I, or launch under SLURM, Cloud TPU or MPI"
    ) from error
