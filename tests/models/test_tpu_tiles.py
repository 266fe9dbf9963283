"""Tiles of TPUs: which sizes fit a chip."""

from clipvip_jax.models.tpu_tiles import TpuTiles


def test_sizes_that_fit_a_chip():
  assert TpuTiles(4, 32, 196, 12, 64).fits(2) and TpuTiles(4, 12, 256, 16, 80).fits(2)
  assert TpuTiles(4, 12, 256, 16, 80).num_buffers(2) == 1  # too large to load the next block during this one
  assert not TpuTiles(4, 32, 256, 16, 80).fits(2)
