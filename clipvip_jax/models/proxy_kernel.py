"""Proxy-guided attention as Pallas kernels, forward and backward: scores never reach a device's memory (HBM).

A program handles a clip and one or several heads, frame by frame. A tile of the proxies and the frame's patches is at
once all queries and all keys of the frame, so the patches' softmax is complete within it. The proxies' softmax is
accumulated over the frames with a running maximum (online softmax), as are their gradients; the rows of patches start
anew in each frame. `proxy_tiles.py` describes the tiles. The kernels take [B, N, H d] as dense layers write it, so
heads are not transposed.

Letters: B batch, N = M + T L tokens, M proxies, T frames, L patches per frame, H heads, d head width, R rows of a tile.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from clipvip_jax.models.gpu_tiles import GpuTiles
from clipvip_jax.models.proxy_tiles import Tiles
from clipvip_jax.models.tpu_tiles import TpuTiles

_TILES: dict[str, type[Tiles]] = {"tpu": TpuTiles, "gpu": GpuTiles}  # by JAX's platform
_LOWEST = -1e30  # score of what a query does not attend to; finite, since inf - inf is NaN


@dataclasses.dataclass(frozen=True)
class ProxyKernel:
  """How the kernels run.

  Attributes:
    platform: "tpu" or "gpu", as JAX names it.
    num_proxies: M.
    num_frames: T.
    head_width: d.
    sharding: of [B, N, H d] over several devices, of which N has none; None: one device.
    interpret: whether to interpret the kernels, which is slow but needs no accelerator; for tests.
  """

  platform: str
  num_proxies: int
  num_frames: int
  head_width: int
  sharding: NamedSharding | None = None
  interpret: bool = False

  def tiles(self, shape: Sequence[int]) -> Tiles:
    """Returns the tiles of attention over arrays [B, N, H d]."""
    num_patches = (shape[1] - self.num_proxies) // self.num_frames
    num_heads = shape[2] // self.head_width
    return _TILES[self.platform](self.num_proxies, self.num_frames, num_patches, num_heads, self.head_width)

  def fits(self, tokens: jax.Array) -> bool:
    """Returns whether the chip has room for the kernels over the device's part of an array [B, N, H d]."""
    shape = tokens.shape if self.sharding is None else self.sharding.shard_shape(tokens.shape)
    return self.tiles(shape).fits(tokens.dtype.itemsize)

  def on_shards(self, body: Callable[..., Any], num_arguments: tuple[int, int], num_results: tuple[int, int]) -> Any:
    """Returns `body` applied to the part of its arguments on each device.

    Args:
      body: (this, arrays [B, N, H d], then arrays [B, M, H]) -> a tuple of such arrays.
      num_arguments: numbers of arrays [B, N, H d] and [B, M, H].
      num_results: the same of the results.
    """
    function = functools.partial(body, self)
    if self.sharding is None:
      return function
    spec = PartitionSpec(*self.sharding.spec)  # the same axes split H d and H
    in_specs, out_specs = (spec,) * sum(num_arguments), (spec,) * sum(num_results)
    return jax.shard_map(function, mesh=self.sharding.mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def fused_proxy_guided(
  kernel: ProxyKernel, query: Float[Array, "b n hd"], key: Float[Array, "b n hd"], value: Float[Array, "b n hd"]
) -> Float[Array, "b n hd"]:
  """Computes `proxy_attention.proxy_guided` of all heads by kernels; queries are scaled by `d ** -0.5`."""
  return _forward(kernel, query, key, value)[0]


def _forward(kernel, query, key, value):
  attended, lse = kernel.on_shards(_forward_of_shard, (3, 0), (1, 1))(query, key, value)
  return attended, (query, key, value, attended[:, : kernel.num_proxies], lse)


def _backward(kernel, residuals, gradient):
  query, key, value, attended, lse = residuals
  product = attended.astype(jnp.float32) * gradient[:, : kernel.num_proxies].astype(jnp.float32)
  delta = product.reshape(*product.shape[:2], -1, kernel.head_width).sum(-1)
  return kernel.on_shards(_backward_of_shard, (4, 2), (3, 0))(query, key, value, gradient, lse, delta)


fused_proxy_guided.defvjp(_forward, _backward)


def _forward_of_shard(kernel, *tokens):
  """Returns (attended, log-sum-exp [B, M, H] of the proxies' scores)."""
  tiles = kernel.tiles(tokens[0].shape)
  attended, lse = _call(_forward_kernel, kernel, tokens, [], (1, 1))
  return attended, lse.swapaxes(1, 2).reshape(len(lse), tiles.stat_rows, -1)[:, : tiles.num_proxies]


def _backward_of_shard(kernel, query, key, value, gradient, *stats):
  """Returns the gradients of query, key and value."""
  tiles = kernel.tiles(query.shape)

  def pack(stat):
    """[B, M, H] -> [B, groups, stat_rows, heads of a group]."""
    padded = jnp.pad(stat, ((0, 0), (0, tiles.stat_rows - tiles.num_proxies), (0, 0)))
    return padded.reshape(*padded.shape[:2], -1, tiles.block_heads).swapaxes(1, 2)

  return tuple(_call(_backward_kernel, kernel, (query, key, value, gradient), [pack(x) for x in stats], (3, 0)))


def _call(body, kernel: ProxyKernel, tokens, stats, num_results: tuple[int, int]) -> list[Array]:
  """Runs a kernel on arrays [B, N, H d] and packed statistics; returns the given numbers of both."""
  array = jax.ShapeDtypeStruct(tokens[0].shape, tokens[0].dtype)
  tiles = kernel.tiles(array.shape)
  block = tiles.token_spec(array.dtype.itemsize)
  batch, groups = len(tokens[0]), tiles.num_heads // tiles.block_heads
  stat = jax.ShapeDtypeStruct((batch, groups, tiles.stat_rows, tiles.block_heads), jnp.float32)
  num_arrays, num_products = len(tokens) + num_results[0], 2 if num_results[1] else 5
  scores = batch * tiles.num_heads * tiles.num_scores
  return pl.pallas_call(
    functools.partial(body, tiles),
    grid=(batch, groups),
    in_specs=[block] * len(tokens) + [tiles.stat_spec()] * len(stats),
    out_specs=[block] * num_results[0] + [tiles.stat_spec()] * num_results[1],
    out_shape=[array] * num_results[0] + [stat] * num_results[1],
    compiler_params=tiles.compiler_params(num_arrays, array.dtype.itemsize),
    cost_estimate=pl.CostEstimate(
      flops=num_products * 2 * tiles.head_width * scores,
      transcendentals=scores,
      bytes_accessed=num_arrays * array.size * array.dtype.itemsize,
    ),
    interpret=kernel.interpret,
    name=f"proxy_attention{body.__name__.removesuffix('_kernel')}",
  )(*tokens, *stats)


def _product(a: Array, b: Array, a_axis: int, b_axis: int) -> Float[Array, "m n"]:
  """Contracts an axis of each of two matrices, in float32."""
  return jax.lax.dot_general(a, b, (((a_axis,), (b_axis,)), ((), ())), preferred_element_type=jnp.float32)


def _scores(query: Array, key: Array, tiles: Tiles, frame: Int[Array, ""]) -> Float[Array, "r r"]:
  return jnp.where(tiles.allowed(frame), _product(query, key, 1, 1), _LOWEST)


def _forward_kernel(tiles: Tiles, query_ref, key_ref, value_ref, attended_ref, lse_ref) -> None:
  def attend(frame, head, carry):
    """Returns the running maximum, sum of exponentials and weighted values, which only proxies keep."""
    maximum, total, mixed = carry
    query, key, value = (tiles.load(ref, frame, head) for ref in (query_ref, key_ref, value_ref))
    scores = _scores(query, key, tiles, frame)
    earlier = jnp.where(tiles.is_proxy(tiles.rows()), maximum, _LOWEST)
    maximum = jnp.maximum(earlier, scores.max(1, keepdims=True))
    weights = jnp.exp(scores - maximum)
    rescale = jnp.exp(earlier - maximum)  # 0 for patches
    total = rescale * total + weights.sum(1, keepdims=True)
    mixed = rescale * mixed + _product(weights.astype(value.dtype), value, 1, 0)
    tiles.store(attended_ref, frame, head, mixed / total)  # that of proxies is complete after the last frame
    return maximum, total, mixed

  def attend_all_heads(frame, carries):
    return tuple(attend(frame, head, carry) for head, carry in enumerate(carries))

  column = jnp.zeros((tiles.num_rows, 1), jnp.float32)
  start = (column + _LOWEST, column, _zeros(tiles))
  carries = jax.lax.fori_loop(0, tiles.num_frames, attend_all_heads, (start,) * tiles.block_heads)
  for head, (maximum, total, _) in enumerate(carries):
    tiles.store_stat(lse_ref, head, maximum + jnp.log(total))


def _backward_kernel(tiles: Tiles, query_ref, key_ref, value_ref, gradient_ref, lse_ref, delta_ref, *result_refs):
  def differentiate(frame, head, carry):
    """Returns the gradients of query, key and value, which only proxies keep."""
    refs = (query_ref, key_ref, value_ref, gradient_ref)
    query, key, value, gradient = (tiles.load(ref, frame, head) for ref in refs)
    is_proxy = tiles.is_proxy(tiles.rows())
    scores = _scores(query, key, tiles, frame)
    # A patch's softmax is within the tile; a proxy's is over all frames, with a known log-sum-exp.
    shift = jnp.where(is_proxy, tiles.load_stat(lse_ref, head), scores.max(1, keepdims=True))
    weights = jnp.exp(scores - shift)
    weights = weights / jnp.where(is_proxy, 1.0, weights.sum(1, keepdims=True))
    weight_grads = _product(gradient, value, 1, 1)
    delta = (weights * weight_grads).sum(1, keepdims=True)
    delta = jnp.where(is_proxy, tiles.load_stat(delta_ref, head), delta)
    score_grads = (weights * (weight_grads - delta)).astype(query.dtype)
    grads = (
      _product(score_grads, key, 1, 0),
      _product(score_grads, query, 0, 0),
      _product(weights.astype(query.dtype), gradient, 0, 0),
    )
    sums = tuple(jnp.where(is_proxy, earlier, 0.0) + grad for earlier, grad in zip(carry, grads, strict=True))
    for ref, x in zip(result_refs, sums, strict=True):
      tiles.store(ref, frame, head, x)
    return sums

  def differentiate_all_heads(frame, carries):
    return tuple(differentiate(frame, head, carry) for head, carry in enumerate(carries))

  start = ((_zeros(tiles),) * len(result_refs),) * tiles.block_heads
  jax.lax.fori_loop(0, tiles.num_frames, differentiate_all_heads, start)


def _zeros(tiles: Tiles) -> Float[Array, "r d"]:
  return jnp.zeros((tiles.num_rows, tiles.tile_width), jnp.float32)
