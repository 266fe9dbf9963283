"""Tiles of tokens on TPUs: aligned rows of on-chip memory."""

import math
from typing import Any

import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array

from clipvip_jax.models.proxy_tiles import Tiles

_LANES = 128  # of a vector register
_SUBLANES = 16  # rows of a register's tile of bfloat16; a multiple of those of float32
# On-chip memory that a program may take for blocks and for values: together below the 64 MiB of v5p and tpu7x (v5e and
# v6e have 128).
_MAX_BLOCK_BYTES = 44 * 2**20
_VALUE_BYTES = 16 * 2**20
_MAX_ARRAYS = 7  # of the backward kernel


def _round_up(size: int, multiple: int) -> int:
  return -(-size // multiple) * multiple


class TpuTiles(Tiles):
  """A window of aligned rows that contains the frame, followed by the aligned rows that contain the proxies.

  Frames start at any row, but registers hold rows that start at a multiple of 16.
  """

  @property
  def window(self) -> int:
    """Rows of the window."""
    first = (self.num_proxies + frame * self.num_patches for frame in range(self.num_frames))
    rows = _round_up(max(x % _SUBLANES for x in first) + self.num_patches, _SUBLANES)
    return min(rows, self.block_rows)

  @property
  def num_rows(self) -> int:
    return self.window + self.stat_rows

  @property
  def block_rows(self) -> int:
    return _round_up(self.num_tokens, _SUBLANES)

  @property
  def block_heads(self) -> int:
    heads = math.lcm(self.head_width, _LANES) // self.head_width
    return self.num_heads if self.num_heads % heads else heads

  @property
  def stat_rows(self) -> int:
    return _round_up(self.num_proxies, _SUBLANES)

  def _block_bytes(self, num_arrays: int, itemsize: int) -> int:
    lanes = _round_up(self.block_heads * self.head_width, _LANES)
    return num_arrays * self.block_rows * lanes * itemsize

  def num_buffers(self, itemsize: int) -> int:
    return 2 if 2 * self._block_bytes(_MAX_ARRAYS, itemsize) <= _MAX_BLOCK_BYTES else 1

  def fits(self, itemsize: int) -> bool:
    return self._block_bytes(_MAX_ARRAYS, itemsize) <= _MAX_BLOCK_BYTES

  def compiler_params(self, num_arrays: int, itemsize: int) -> pltpu.CompilerParams:
    return pltpu.CompilerParams(
      dimension_semantics=("parallel", "parallel"),
      vmem_limit_bytes=self.num_buffers(itemsize) * self._block_bytes(num_arrays, itemsize) + _VALUE_BYTES,
    )

  def is_proxy(self, row: Array) -> Array:
    return (row >= self.window) & (row < self.window + self.num_proxies)

  def is_patch(self, row: Array, frame: Array) -> Array:
    first = self.num_proxies + frame * self.num_patches - self._start(frame)
    return (row < self.window) & (row >= first) & (row < first + self.num_patches)

  def _start(self, frame: Array) -> Array:
    """Returns the first row of the window."""
    start = (self.num_proxies + frame * self.num_patches) & -_SUBLANES
    return pl.multiple_of(jnp.minimum(start, self.block_rows - self.window), _SUBLANES)

  def _slices(self, frame: Array, head: int) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    """Returns the (rows, lanes) of the window and of the proxies."""
    lanes = pl.ds(head * self.head_width, self.head_width)
    return (pl.ds(self._start(frame), self.window), lanes), (pl.ds(0, self.stat_rows), lanes)

  def _is_valid(self, frame: Array) -> Array:
    rows = self.rows(self.head_width)
    return self.is_patch(rows, frame) | self.is_proxy(rows)

  def load(self, ref: Any, frame: Array, head: int) -> Array:
    tile = jnp.concatenate([ref[where] for where in self._slices(frame, head)])
    return jnp.where(self._is_valid(frame), tile, jnp.zeros((), tile.dtype))

  def store(self, ref: Any, frame: Array, head: int, tile: Array) -> None:
    valid, tile = self._is_valid(frame), tile.astype(ref.dtype)
    window, proxies = self._slices(frame, head)
    ref[window] = jnp.where(valid[: self.window], tile[: self.window], ref[window])
    ref[proxies] = jnp.where(valid[self.window :], tile[self.window :], ref[proxies])

  def load_stat(self, ref: Any, head: int) -> Array:
    return jnp.concatenate([jnp.zeros((self.window, 1), ref.dtype), ref[:, head : head + 1]])

  def store_stat(self, ref: Any, head: int, stat: Array) -> None:
    ref[:, head : head + 1] = stat[self.window :]
