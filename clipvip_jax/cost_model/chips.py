"""Published peaks of accelerator chips, and the topologies that they come in."""

import dataclasses
import importlib.util
import math
import os
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import NO_TPU

if TYPE_CHECKING:
  import jax

GIB, GB = 2**30, 10**9


@dataclasses.dataclass(frozen=True)
class Chip:
  """Peaks of one chip, or of one core where JAX makes a device of each.

  Attributes:
    flops: dense bfloat16 operations per second.
    hbm: bytes of memory.
    hbm_bandwidth: bytes per second.
    interconnect: bytes per second that a chip sends to its neighbours, in one direction.
    examples: sizes of a topology, the usual one first.
    usable: fraction of the memory available to a program.
    node: chips that share the interconnect; 0: the complete slice.
    network: bytes per second per chip between nodes.
    kind: JAX's `device_kind`, or its prefix.
    cores: devices of a chip.
    largest: chips of the largest slice, or GPUs that can be simulated.
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
  cores: int = 1
  largest: int = 256

  @property
  def is_tpu(self) -> bool:
    """Whether libtpu compiles for the chip; CPU devices stand in for GPUs."""
    return not self.node

  def sending(self, span: int) -> float:
    """Returns the bytes per second that each chip of a group can send, by the slowest link of their ring.

    Args:
      span: number of consecutive chips from the group's first to its last.
    """
    return self.network if self.node and span > self.node else self.interconnect


_FLAT = ("4x8", "1x1", "2x2", "2x4", "4x4", "8x8", "8x16", "16x16")
_CUBES = ("2x2x4", "2x2x1", "2x2x2", "2x4x4", "4x4x4", "4x4x8")
_RACKS = ("72", "1", "4", "8", "36", "144")
_NODES = ("8", "1", "2", "4", "16", "32")
_MAX_GPUS = 4096  # 16,384 CPU devices in their place take minutes to create
# JAX preallocates three quarters of a GPU's memory, unless XLA_PYTHON_CLIENT_MEM_FRACTION is set:
# docs.jax.dev/en/latest/gpu_memory_allocation.html
_GPU: dict[str, Any] = {"examples": _NODES, "usable": 0.75, "node": 8, "largest": _MAX_GPUS}

# Pods of v5e and v6e have 256 chips, of v5p 8,960 and of TPU7x 9,216; no slice is larger.
# Google publishes the interconnect of both directions together; these are of one.
CHIPS = {
  # cloud.google.com/tpu/docs/v5e: 197 TFLOPs, 16 GB, 819 GBps, 400 GBps
  "v5e": Chip(197e12, 16 * GIB, 819e9, 200e9, _FLAT, kind="TPU v5 lite"),
  # cloud.google.com/tpu/docs/v5p: 459 TFLOPs, 95 GB, 2765 GBps, 1200 GBps
  "v5p": Chip(459e12, 95 * GIB, 2765e9, 600e9, _CUBES, kind="TPU v5", largest=8960),
  # cloud.google.com/tpu/docs/v6e: 918 TFLOPs, 32 GB, 1638 GBps, 800 GBps
  "v6e": Chip(918e12, 32 * GIB, 1638e9, 400e9, _FLAT, kind="TPU v6 lite"),
  # cloud.google.com/tpu/docs/tpu7x: 2307 TFLOPs, 192 GiB, 7380 GBps, 1200 GBps; JAX has a device for each of two cores
  "tpu7x": Chip(
    *(2307e12 / 2, 96 * GIB, 7380e9 / 2, 600e9 / 2),
    ("2x2x1", "2x2x4", *_CUBES[2:]),
    kind="TPU7x",
    cores=2,
    largest=9216,
  ),
  # nvidia.com/en-us/data-center/a100, SXM 80 GB: 312 TFLOPS, 2039 GB/s, NVLink 600 GB/s both ways;
  # DGX A100: 200 Gb/s of network a GPU
  "a100": Chip(312e12, 80 * GB, 2039e9, 300e9, **_GPU, network=25e9, kind="NVIDIA A100"),
  # nvidia.com/en-us/data-center/h100, SXM: 1979 TFLOPS with sparsity, 80 GB, 3.35 TB/s, NVLink 900 GB/s both ways;
  # DGX H100: 400 Gb/s of network a GPU
  "h100": Chip(989.5e12, 80 * GB, 3350e9, 450e9, **_GPU, network=50e9, kind="NVIDIA H100"),
  # nvidia.com/en-us/data-center/h200, SXM: as the H100, with 141 GB and 4.8 TB/s; DGX H200: 400 Gb/s a GPU
  "h200": Chip(989.5e12, 141 * GB, 4800e9, 450e9, **_GPU, network=50e9, kind="NVIDIA H200"),
  # nvidia.com/en-us/data-center/dgx-b200, of 8 GPUs: 1,440 GB, 64 TB/s, NVLink 14.4 TB/s both ways, 400 Gb/s a GPU;
  # 4.5 PFLOPS a GPU with sparsity
  "b200": Chip(2250e12, 180 * GB, 8000e9, 900e9, **_GPU, network=50e9, kind="NVIDIA B200"),
  # nvidia.com/en-us/data-center/gb200-nvl72, of 72 GPUs: 360 PFLOPS with sparsity, 13.4 TB, 576 TB/s, NVLink 130 TB/s
  # both ways; 400 Gb/s a GPU
  "gb200": Chip(
    2500e12, 186 * GB, 8000e9, 900e9, **_GPU | {"examples": _RACKS, "node": 72}, network=50e9, kind="NVIDIA GB200"
  ),
}


def chip_of_kind(kind: str) -> Chip | None:
  """Returns the chip of a JAX `device_kind`, as in "NVIDIA H100 80GB HBM3"; None if unknown."""
  known = [chip for chip in CHIPS.values() if kind == chip.kind or (not chip.is_tpu and kind.startswith(chip.kind))]
  return known[0] if known else None


def parse_topology(topology: str) -> tuple[Chip, int]:
  """Parses a topology such as `v5e:4x8` or `h100:8`; returns (chip, number of JAX's devices).

  Raises:
    UserError: unknown chip or size; the message lists those allowed.
  """
  name, _, size = topology.partition(":")
  if name not in CHIPS:
    raise UserError(f"--topology={topology}: unknown chip {name!r}; allowed: {', '.join(map(_example, CHIPS))}")
  chip = CHIPS[name]
  dimensions = chip.examples[0].count("x")
  if not re.fullmatch(rf"[1-9]\d*(x[1-9]\d*){{{dimensions}}}", size):
    raise _unknown_size(topology, chip)
  chips = math.prod(map(int, size.split("x")))
  count = chip.cores * chips
  if count > chip.node > 0 and count % chip.node:
    raise UserError(
      f"--topology={topology}: {count} is not divisible by nodes of {chip.node} GPUs; use a multiple of {chip.node}"
    )
  if chips > chip.largest:
    unit, limit = ("chips", "of the largest slice") if chip.is_tpu else ("GPUs", "that can be simulated")
    raise UserError(f"--topology={topology}: {chips} {unit} exceed the {chip.largest} {limit}; use fewer")
  return chip, count


def _example(name: str) -> str:
  return f"{name}:{CHIPS[name].examples[0]}"


def _unknown_size(topology: str, chip: Chip) -> UserError:
  name = topology.partition(":")[0]
  sizes = ", ".join(f"{name}:{size}" for size in chip.examples)
  return UserError(f"--topology={topology}: unknown size; use one such as {sizes}")


def devices(topology: str) -> Sequence["jax.Device"]:
  """Returns devices to compile for: those of an absent TPU slice, or CPU devices in place of GPUs.

  Must be called before JAX initialises its backends, which fixes the number of CPU devices.

  Raises:
    UserError: unknown topology, or libtpu is not installed.
  """
  chip, count = parse_topology(topology)
  import jax

  jax.config.update("jax_platforms", "cpu")
  return _slice(topology, chip) if chip.is_tpu else _simulated(count)


def _simulated(count: int) -> Sequence["jax.Device"]:
  import jax

  try:
    jax.config.update("jax_num_cpu_devices", count)
  except RuntimeError:  # JAX's backends are initialised; their devices may suffice
    if jax.device_count() < count:
      raise
  return jax.devices()[:count]


# Keeps libtpu from querying the metadata of its machine and from locking the TPU.
_COMPILE_ONLY = {**NO_TPU, "TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}


def _slice(topology: str, chip: Chip) -> Sequence["jax.Device"]:
  import jax
  from jax.experimental import topologies

  if importlib.util.find_spec("libtpu") is None:
    raise UserError(f"--topology={topology} needs the TPU compiler, which is not installed; pip install 'jax[tpu]'")
  for name, value in _COMPILE_ONLY.items():
    os.environ.setdefault(name, value)
  # Cached executables cannot be loaded for devices that are not attached.
  jax.config.update("jax_enable_compilation_cache", False)
  # libtpu takes hosts of four chips, which a single chip, as in notebooks, does not divide.
  bounds = {"chips_per_host_bounds": (1, 1, 1)} if topology.endswith(":1x1") else {}
  try:
    return topologies.get_topology_desc(platform="tpu", topology_name=topology, **bounds).devices
  except jax.errors.JaxRuntimeError as error:
    raise _unknown_size(topology, chip) from error
