"""Chips by name, as their makers publish them, and the slices and nodes that they come in."""

import dataclasses
import importlib.util
import math
import os
import re
from collections.abc import Sequence
from typing import Any

from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import NO_TPU

GIB, GB = 2**30, 10**9


@dataclasses.dataclass(frozen=True)
class Chip:
  """What one chip can do.

  Attributes:
    flops: peak bfloat16 products and sums a second, of dense matrices.
    hbm: bytes of memory.
    hbm_bandwidth: bytes a second.
    interconnect: bytes a second that one chip can send to its neighbours while it receives as many.
    examples: sizes, the first of them usual.
    usable: share of the memory that a program gets.
    node: chips that share the interconnect; 0: all of a slice.
    network: bytes a second of one chip between nodes.
    kind: how JAX calls it, or how that begins.
  """

  flops: float
  hbm: float
  hbm_bandwidth: float
  interconnect: float
  examples: tuple[str, ...]
  usable: float = 1.0
  node: int = 0
  network: float = 0.0
  kind: str = ""

  @property
  def is_tpu(self) -> bool:
    """A slice, for which libtpu compiles; for GPUs CPU devices stand in."""
    return not self.node

  def sending(self, span: int) -> float:
    """Bytes a second that each chip can send to others of a group: the slowest link of their ring.

    Args:
      span: consecutive chips from the group's first to its last.
    """
    return self.network if self.node and span > self.node else self.interconnect


_FLAT = ("4x8", "2x2", "2x4", "4x4", "8x8", "8x16", "16x16")
_CUBES = ("2x2x4", "2x2x1", "2x2x2", "2x4x4", "4x4x4", "4x4x8")
_NODES = ("8", "1", "2", "4", "16", "32")
# JAX takes three quarters of a GPU's memory, unless XLA_PYTHON_CLIENT_MEM_FRACTION says otherwise:
# docs.jax.dev/en/latest/gpu_memory_allocation.html
_GPU: dict[str, Any] = {"examples": _NODES, "usable": 0.75, "node": 8}

# Google gives the interconnect of both directions together; here is one.
CHIPS = {
  # cloud.google.com/tpu/docs/v5e: 197 TFLOPs, 16 GB, 819 GBps, 400 GBps
  "v5e": Chip(197e12, 16 * GIB, 819e9, 200e9, _FLAT, kind="TPU v5 lite"),
  # cloud.google.com/tpu/docs/v5p: 459 TFLOPs, 95 GB, 2765 GBps, 1200 GBps
  "v5p": Chip(459e12, 95 * GIB, 2765e9, 600e9, _CUBES, kind="TPU v5"),
  # cloud.google.com/tpu/docs/v6e: 918 TFLOPs, 32 GB, 1638 GBps, 800 GBps
  "v6e": Chip(918e12, 32 * GIB, 1638e9, 400e9, _FLAT, kind="TPU v6 lite"),
  # nvidia.com/en-us/data-center/a100, SXM 80 GB: 312 TFLOPS, 2039 GB/s, NVLink 600 GB/s both ways;
  # DGX A100: 200 Gb/s of network a GPU
  "a100": Chip(312e12, 80 * GB, 2039e9, 300e9, **_GPU, network=25e9, kind="NVIDIA A100"),
  # nvidia.com/en-us/data-center/h100, SXM: 1979 TFLOPS with sparsity, 80 GB, 3.35 TB/s, NVLink 900 GB/s both ways;
  # DGX H100: 400 Gb/s of network a GPU
  "h100": Chip(989.5e12, 80 * GB, 3350e9, 450e9, **_GPU, network=50e9, kind="NVIDIA H100"),
  # nvidia.com/en-us/data-center/h200, SXM: as the H100, with 141 GB and 4.8 TB/s; DGX H200: 400 Gb/s a GPU
  "h200": Chip(989.5e12, 141 * GB, 4800e9, 450e9, **_GPU, network=50e9, kind="NVIDIA H200"),
}


def chip_of_kind(kind: str) -> Chip | None:
  """The chip that JAX calls so, as in "NVIDIA H100 80GB HBM3"; None: an unknown one."""
  known = [chip for chip in CHIPS.values() if kind == chip.kind or (not chip.is_tpu and kind.startswith(chip.kind))]
  return known[0] if known else None


def parse_topology(topology: str) -> tuple[Chip, int]:
  """(chip, how many of them) of a name such as `v5e:4x8` or `h100:8`.

  Raises:
    UserError: no such chip or size, with what is allowed.
  """
  name, _, size = topology.partition(":")
  if name not in CHIPS:
    raise UserError(f"--topology={topology}: there is no chip {name!r}; allowed: {', '.join(map(_example, CHIPS))}")
  chip = CHIPS[name]
  dimensions = chip.examples[0].count("x")
  if not re.fullmatch(rf"[1-9]\d*(x[1-9]\d*){{{dimensions}}}", size):
    raise _no_such_size(topology, chip)
  count = math.prod(map(int, size.split("x")))
  if count > chip.node > 0 and count % chip.node:
    raise UserError(f"--topology={topology}: more than {chip.node} GPUs come in nodes of {chip.node}")
  return chip, count


def _example(name: str) -> str:
  return f"{name}:{CHIPS[name].examples[0]}"


def _no_such_size(topology: str, chip: Chip) -> UserError:
  name = topology.partition(":")[0]
  sizes = ", ".join(f"{name}:{size}" for size in chip.examples)
  return UserError(f"--topology={topology}: there is no such size; allowed are such as {sizes}")


def devices(topology: str) -> Sequence[Any]:
  """Devices to compile for: those of a TPU slice that is not there, or CPU devices in place of GPUs.

  To be called before JAX has made any array, since the number of CPU devices cannot change later.

  Raises:
    UserError: no such topology, or libtpu is missing.
  """
  chip, count = parse_topology(topology)
  import jax

  jax.config.update("jax_platforms", "cpu")
  return _slice(topology, chip) if chip.is_tpu else _simulated(count)


def _simulated(count: int) -> Sequence[Any]:
  import jax

  try:
    jax.config.update("jax_num_cpu_devices", count)
  except RuntimeError:  # JAX has started, with as many devices as somebody else has asked for
    if jax.device_count() < count:
      raise
  return jax.devices()[:count]


# What keeps libtpu from asking for the machine that it is on, and from being the only one there.
_COMPILE_ONLY = {**NO_TPU, "TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}


def _slice(topology: str, chip: Chip) -> Sequence[Any]:
  import jax
  from jax.experimental import topologies

  if importlib.util.find_spec("libtpu") is None:
    raise UserError(f"--topology={topology} needs the TPU compiler: pip install 'jax[tpu]'")
  for name, value in _COMPILE_ONLY.items():
    os.environ.setdefault(name, value)
  try:
    return topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
  except jax.errors.JaxRuntimeError as error:
    raise _no_such_size(topology, chip) from error
