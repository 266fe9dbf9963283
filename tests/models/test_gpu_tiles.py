"""Tiles of GPUs: which sizes fit registers."""

from clipvip_jax.models.gpu_tiles import GpuTiles


def test_sizes_that_fit_registers():
  assert GpuTiles(4, 12, 49, 12, 64).fits(2) and not GpuTiles(4, 12, 196, 12, 64).fits(2)
