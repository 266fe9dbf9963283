"""Tiles of tokens on GPUs: rows at any address, in powers of two."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu
from jaxtyping import Array

from clipvip_jax.models.proxy_tiles import Tiles

_MIN_ROWS = 16  # of a product by tensor cores
_MAX_ROWS = 128  # a tile's scores [R, R] stay in registers


class GpuTiles(Tiles):
  """The proxies, followed by the frame's patches: rows are loaded from any address.

  Triton's arrays have powers of two as sizes.
  """

  @property
  def num_rows(self) -> int:
    return max(_MIN_ROWS, pl.next_power_of_2(self.num_proxies + self.num_patches))

  @property
  def tile_width(self) -> int:
    return max(_MIN_ROWS, pl.next_power_of_2(self.head_width))

  @property
  def block_rows(self) -> int:
    return self.num_tokens

  @property
  def block_heads(self) -> int:
    return 1

  @property
  def stat_rows(self) -> int:
    return self.num_rows

  def num_buffers(self, itemsize: int) -> int:
    del itemsize
    return 2

  def fits(self, itemsize: int) -> bool:
    del itemsize
    return self.num_rows <= _MAX_ROWS

  def compiler_params(self, num_arrays: int, itemsize: int) -> plgpu.CompilerParams:
    del num_arrays, itemsize
    return plgpu.CompilerParams(num_warps=4 if self.num_rows <= 64 else 8, num_stages=2)

  def is_proxy(self, row: Array) -> Array:
    return row < self.num_proxies

  def is_patch(self, row: Array, frame: Array) -> Array:
    del frame
    return (row >= self.num_proxies) & (row < self.num_proxies + self.num_patches)

  def _addresses(self, frame: Array) -> tuple[tuple[Array, Array], Array]:
    """Returns the (tokens, lanes) of a tile, and which of them exist."""
    rows = self.rows(self.tile_width)
    lanes = jax.lax.broadcasted_iota(jnp.int32, rows.shape, 1)
    tokens = jnp.where(self.is_proxy(rows), rows, rows + frame * self.num_patches)
    return (tokens, lanes), (self.is_proxy(rows) | self.is_patch(rows, frame)) & (lanes < self.head_width)

  def load(self, ref: Any, frame: Array, head: int) -> Array:
    del head
    where, exists = self._addresses(frame)
    return plgpu.load(ref.at[where], mask=exists, other=0.0)

  def store(self, ref: Any, frame: Array, head: int, tile: Array) -> None:
    del head
    where, exists = self._addresses(frame)
    plgpu.store(ref.at[where], tile.astype(ref.dtype), mask=exists)

  def load_stat(self, ref: Any, head: int) -> Array:
    del head
    return ref[...]

  def store_stat(self, ref: Any, head: int, stat: Array) -> None:
    del head
    ref[...] = stat
