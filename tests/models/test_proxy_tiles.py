"""Tiles that the kernels load: which rows they have."""

import numpy as np
import pytest

from clipvip_jax.models.gpu_tiles import GpuTiles
from clipvip_jax.models.tpu_tiles import TpuTiles


@pytest.mark.parametrize("kind", [TpuTiles, GpuTiles])
@pytest.mark.parametrize(("proxies", "frames", "patches"), [(1, 1, 49), (4, 12, 49), (8, 3, 257), (17, 2, 10)])
def test_every_tile_has_all_proxies_and_all_patches_of_its_frame(kind, proxies, frames, patches):
  tiles = kind(proxies, frames, patches, 2, 64)
  rows = np.arange(tiles.num_rows)
  for frame in range(frames):
    is_proxy, is_patch = np.asarray(tiles.is_proxy(rows)), np.asarray(tiles.is_patch(rows, np.int32(frame)))
    assert is_proxy.sum() == proxies and is_patch.sum() == patches and not (is_proxy & is_patch).any()
