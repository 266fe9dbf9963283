"""Tiles of tokens that the kernels of `proxy_kernel.py` load from on-chip memory, for TPUs and for GPUs.

A tile has the proxies and the patches of one frame, of one head: all keys of the frame's queries. Its rows beyond those
are zero. A program of the grid handles a clip and one or several heads, frame by frame.

Letters: B batch, N = M + T L tokens, M proxies, T frames, L patches per frame, H heads, d head width, R rows of a tile.
"""

import abc
import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.experimental.pallas import triton as plgpu
from jaxtyping import Array, Bool, Float, Int

_LANES = 128  # of a TPU's vector register
_SUBLANES = 16  # rows of a TPU's tile of bfloat16; a multiple of those of float32
_MIN_GPU_ROWS = 16  # of a product by tensor cores
_MAX_GPU_ROWS = 128  # a tile's scores [R, R] stay in registers
# On-chip memory that a TPU program may take for blocks and for values: together below the 64 MiB of v5p and tpu7x (v5e
# and v6e have 128).
_MAX_TPU_BLOCK_BYTES = 44 * 2**20
_TPU_VALUE_BYTES = 16 * 2**20
_MAX_ARRAYS = 7  # of the backward kernel


def _round_up(size: int, multiple: int) -> int:
  return -(-size // multiple) * multiple


@dataclasses.dataclass(frozen=True)
class Tiles(abc.ABC):
  """Sizes of the attention, and how its tiles are loaded and stored.

  Attributes:
    num_proxies: M.
    num_frames: T.
    num_patches: L.
    num_heads: H of this device.
    head_width: d.
  """

  num_proxies: int
  num_frames: int
  num_patches: int
  num_heads: int
  head_width: int

  @property
  def num_tokens(self) -> int:
    """N."""
    return self.num_proxies + self.num_frames * self.num_patches

  @property
  def num_scores(self) -> int:
    """Scores of a clip and head."""
    patches = self.num_frames * self.num_patches
    return patches * (self.num_proxies + self.num_patches) + self.num_proxies * self.num_tokens

  @property
  @abc.abstractmethod
  def num_rows(self) -> int:
    """R."""

  @property
  def tile_width(self) -> int:
    """Columns of a tile: d, padded where the chip requires it."""
    return self.head_width

  @property
  @abc.abstractmethod
  def block_rows(self) -> int:
    """Tokens of a block: all of a clip."""

  @property
  @abc.abstractmethod
  def block_heads(self) -> int:
    """Heads of a block."""

  @property
  @abc.abstractmethod
  def stat_rows(self) -> int:
    """Rows of a block with one number for each proxy and head."""

  @abc.abstractmethod
  def num_buffers(self, itemsize: int) -> int:
    """Returns 2 where the next block is loaded during the computation of this one, else 1."""

  @abc.abstractmethod
  def fits(self, itemsize: int) -> bool:
    """Returns whether the forward and the backward kernel fit the chip, for elements of `itemsize` bytes."""

  @abc.abstractmethod
  def compiler_params(self, num_arrays: int, itemsize: int) -> Any:
    """Returns the parameters of the compiler for a kernel with blocks of `num_arrays` arrays."""

  @abc.abstractmethod
  def is_proxy(self, row: Int[Array, "*n"]) -> Bool[Array, "*n"]:
    """Returns which rows of a tile are proxies."""

  @abc.abstractmethod
  def is_patch(self, row: Int[Array, "*n"], frame: Int[Array, ""]) -> Bool[Array, "*n"]:
    """Returns which rows of a tile are patches of the frame."""

  @abc.abstractmethod
  def load(self, ref: Any, frame: Int[Array, ""], head: int) -> Float[Array, "r d"]:
    """Loads a tile of a block [tokens, heads * d]."""

  @abc.abstractmethod
  def store(self, ref: Any, frame: Int[Array, ""], head: int, tile: Float[Array, "r d"]) -> None:
    """Stores the proxies and the frame's patches of a tile."""

  @abc.abstractmethod
  def load_stat(self, ref: Any, head: int) -> Float[Array, "r 1"]:
    """Loads the numbers of the proxies from a block [stat_rows, heads]."""

  @abc.abstractmethod
  def store_stat(self, ref: Any, head: int, stat: Float[Array, "r 1"]) -> None:
    """Stores the numbers of the proxies."""

  def rows(self, num_columns: int = 1) -> Int[Array, "r c"]:
    """Returns the number of each row of a tile, in every column."""
    return jax.lax.broadcasted_iota(jnp.int32, (self.num_rows, num_columns), 0)

  def allowed(self, frame: Int[Array, ""]) -> Bool[Array, "r r"]:
    """Returns which rows attend to which: all to the frame's patches and to the proxies.

    The proxies' attention is summed over frames, so they attend to proxies in the first frame only.
    """
    query, key = self.rows(self.num_rows), jax.lax.broadcasted_iota(jnp.int32, (self.num_rows, self.num_rows), 1)
    to_proxy = self.is_proxy(key) & ((frame == 0) | ~self.is_proxy(query))
    return self.is_patch(key, frame) | to_proxy

  def token_spec(self, itemsize: int) -> pl.BlockSpec:
    """Returns the blocks of an array [B, N, H d] over the grid (clips, groups of heads)."""
    shape = (None, self.block_rows, self.block_heads * self.head_width)
    mode = pl.Buffered(1) if self.num_buffers(itemsize) == 1 else None
    return pl.BlockSpec(shape, lambda b, g: (b, 0, g), pipeline_mode=mode)

  def stat_spec(self) -> pl.BlockSpec:
    """Returns the blocks of an array [B, groups, stat_rows, heads of a group]."""
    return pl.BlockSpec((None, None, self.stat_rows, self.block_heads), lambda b, g: (b, g, 0, 0))


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
    return 2 if 2 * self._block_bytes(_MAX_ARRAYS, itemsize) <= _MAX_TPU_BLOCK_BYTES else 1

  def fits(self, itemsize: int) -> bool:
    return self._block_bytes(_MAX_ARRAYS, itemsize) <= _MAX_TPU_BLOCK_BYTES

  def compiler_params(self, num_arrays: int, itemsize: int) -> pltpu.CompilerParams:
    return pltpu.CompilerParams(
      dimension_semantics=("parallel", "parallel"),
      vmem_limit_bytes=self.num_buffers(itemsize) * self._block_bytes(num_arrays, itemsize) + _TPU_VALUE_BYTES,
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


class GpuTiles(Tiles):
  """The proxies, followed by the frame's patches: rows are loaded from any address.

  Triton's arrays have powers of two as sizes.
  """

  @property
  def num_rows(self) -> int:
    return max(_MIN_GPU_ROWS, pl.next_power_of_2(self.num_proxies + self.num_patches))

  @property
  def tile_width(self) -> int:
    return max(_MIN_GPU_ROWS, pl.next_power_of_2(self.head_width))

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
    return self.num_rows <= _MAX_GPU_ROWS

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


TILES: dict[str, type[Tiles]] = {"tpu": TpuTiles, "gpu": GpuTiles}  # by JAX's platform
