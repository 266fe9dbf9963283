"""Tiles of tokens that the kernels of `proxy_kernel.py` load; `tpu_tiles.py` and `gpu_tiles.py` say how.

A tile has the proxies and the patches of one frame, of one head: all keys of the frame's queries. Its rows beyond those
are zero. A program of the grid handles a clip and one or several heads, frame by frame.

Letters: B batch, N = M + T L tokens, M proxies, T frames, L patches per frame, H heads, d head width, R rows of a tile.
"""

import abc
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Bool, Float, Int


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
