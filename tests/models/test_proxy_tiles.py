"""Tiles that the kernels load: which rows they have, and which sizes fit a chip."""

import numpy as np
import pytest

from clipvip_jax.models.proxy_tiles import GpuTiles, TpuTiles


@pytest.mark.parametrize("kind", [TpuTiles, GpuTiles])
@pytest.mark.parametrize(("proxies", "frames", "patches"), [(1, 1, 49), (4, 12, 49), (8, 3, 257), (17, 2, 10)])
def test_every_tile_has_all_proxies_and_all_patches_of_its_frame(kind, proxies, frames, patches):
  tiles = kind(proxies, frames, patches, 2, 64)
  rows = np.arange(tiles.num_rows)
  for frame in range(frames):
    is_proxy, is_patch = np.asarray(tiles.is_proxy(rows)), np.asarray(tiles.is_patch(rows, np.int32(frame)))
    assert is_proxy.sum() == proxies and is_patch.sum() == patches and not (is_proxy & is_patch).any()


def test_sizes_that_fit_a_chip():
  assert TpuTiles(4, 32, 196, 12, 64).fits(2) and TpuTiles(4, 12, 256, 16, 80).fits(2)
  assert TpuTiles(4, 12, 256, 16, 80).num_buffers(2) == 1  # too large to load the next block during this one
  assert not TpuTiles(4, 32, 256, 16, 80).fits(2)
  assert GpuTiles(4, 12, 49, 12, 64).fits(2) and not GpuTiles(4, 12, 196, 12, 64).fits(2)
