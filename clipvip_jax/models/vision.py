"""The vision tower with video proxies (section 3.3 of the paper). An image is a clip of one frame.

Letters: B batch, T frames, S side in pixels, P patch side, L = (S / P)^2 patches per frame, M proxies, D width,
E embedding size, T0 rows of the time embedding.
"""

import functools
from collections.abc import Callable
from typing import Any

import einops
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from clipvip_jax.models.proxy_attention import full, proxy_guided, proxy_weights, resolve_implementation
from clipvip_jax.models.transformer import AttentionPattern, TokenDense, TokenReadout, Transformer, dense, layer_norm


def resize_time(time: Float[Array, "t0 d"], num_frames: int) -> Float[Array, "t d"]:
  """The time embedding for `num_frames` frames: linear, half-pixel centres, no antialiasing, as PyTorch resizes."""
  if time.shape[0] == num_frames:
    return time
  return jax.image.resize(time, (num_frames, time.shape[1]), method="linear", antialias=False)


def _waves(coordinates: Float[np.ndarray, " n"], width: int) -> Float[np.ndarray, "n w"]:
  """Sines and cosines of coordinates in [0, 1], from a quarter to two periods over the range, of unit length a pair."""
  angles = coordinates[:, None] * np.pi * np.geomspace(0.5, 4.0, width // 2)
  return np.concatenate([np.sin(angles), np.cos(angles)], axis=1) * 0.5**0.5


def _centres(count: int) -> Float[np.ndarray, " n"]:
  return (np.arange(count) + 0.5) / count


def sincos_position(key, shape, dtype=jnp.float32) -> Float[Array, "n d"]:
  """[1 + L, D]: zeros for the proxies, and waves over rows and over columns for the patches of a square grid."""
  del key
  count, width = shape
  side = round((count - 1) ** 0.5)
  rows, columns = np.meshgrid(_centres(side), _centres(side), indexing="ij")
  grid = np.concatenate([_waves(axis.ravel(), width // 2) for axis in (rows, columns)], axis=1)
  return jnp.asarray(np.concatenate([np.zeros((1, width)), grid]), dtype)


def sincos_time(key, shape, dtype=jnp.float32) -> Float[Array, "t d"]:
  """[T0, D]: waves over time."""
  del key
  return jnp.asarray(_waves(_centres(shape[0]), shape[1]), dtype)


def _some(patches: Float[Array, "b t l d"], share: float, key: Array) -> Float[Array, "b t k d"]:
  """A share of each frame's patches, each frame's own, at least one: so many that shapes stay static."""
  count = max(1, round(share * patches.shape[2]))
  chosen = jnp.argsort(jax.random.uniform(key, patches.shape[:3]), axis=-1)[..., :count]
  return jnp.take_along_axis(patches, chosen[..., None], axis=2)


# How the embeddings of position and of time start. "clip": as CLIP's, and time at zero, which leaves loaded weights'
# features as they were. "scratch": waves, for random weights; neighbours in space and time start alike, without which
# a small model takes long to see that things move.
EMBEDDING_INITS = {
  "clip": (nn.initializers.variance_scaling(1.0, "fan_out", "normal"), nn.initializers.zeros),
  "scratch": (sincos_position, sincos_time),
}


# The stream of random numbers that chooses patches; a call that brings none, as in evaluation, keeps all of them.
PATCH_DROPOUT = "patch_dropout"


class VisionTower(nn.Module):
  """Video [B, T, S, S, 3], normalised pixels -> features [B, E], not yet of unit length."""

  image_size: int
  patch_size: int
  width: int
  layers: int
  heads: int
  mlp: int
  embed_dim: int
  added_proxies: int
  time_positions: int  # T0; 0: no time embedding
  embedding_init: str  # a key of EMBEDDING_INITS
  activation: str
  dtype: Any = jnp.float32
  full_attention: bool = False  # of all tokens to all, in place of proxy-guided attention
  patch_dropout: float = 0.0  # share of each frame's patches that training leaves out
  remat: bool = False
  attention: str = "xla"  # one of proxy_attention.IMPLEMENTATIONS

  @nn.compact
  def __call__(
    self, video: Float[Array, "b t s s 3"], watch: Callable[[Array], None] | None = None
  ) -> Float[Array, "b e"]:
    """`watch` is shown what the proxies look at, [B, M, T, L], in one block after another."""
    tokens = self._embed(video).astype(self.dtype)
    tokens = layer_norm(self.dtype, "pre_norm")(tokens)
    unseen = watch is None  # what is watched is neither traced once for all blocks nor computed again
    sizes = self.layers, self.heads, self.mlp, self.activation, self.dtype, self.remat and unseen, unseen
    # The class token sees everything under every pattern. What is watched is all proxies.
    reader = TokenReadout(jnp.zeros(len(tokens), jnp.int32), jnp.ones(tokens.shape[:2], bool)) if unseen else None
    tokens = Transformer(*sizes, name="transformer")(tokens, self._pattern(video.shape[1], watch), reader)
    pooled = layer_norm(self.dtype, "post_norm")(tokens[:, 0])
    projection = TokenDense(self.embed_dim, std=self.width**-0.5, use_bias=False, dtype=self.dtype, name="projection")
    return projection(pooled)

  def _pattern(self, num_frames: int, watch: Callable[[Array], None] | None) -> AttentionPattern:
    tokens: dict[str, Any] = {"num_proxies": 1 + self.added_proxies, "num_frames": num_frames}
    implementation = resolve_implementation(self.attention, self.dtype)
    way = full if self.full_attention else functools.partial(proxy_guided, **tokens)
    pattern: AttentionPattern = functools.partial(way, implementation=implementation)
    if watch is None:
      return pattern

    def watched(query, key, value):
      watch(proxy_weights(query, key, **tokens))
      return pattern(query, key, value)

    return watched

  def _embed(self, video: Float[Array, "b t s s 3"]) -> Float[Array, "b n d"]:
    """`[M proxies, frame 0's L patches, ...]`, with the embeddings of position and time added."""
    patches = self._patches(video)
    batch, num_frames, num_patches, width = patches.shape
    normal = nn.initializers.normal
    std = width**-0.5
    position_init, time_init = EMBEDDING_INITS[self.embedding_init]
    position = self.param("position_embedding", position_init, (1 + num_patches, width))
    patches = patches + position[1:]
    if self.time_positions:
      time = self.param("time_embedding", time_init, (self.time_positions, width))
      patches = patches + resize_time(time, num_frames)[:, None]
    if self.patch_dropout and self.has_rng(PATCH_DROPOUT):
      patches = _some(patches, 1 - self.patch_dropout, self.make_rng(PATCH_DROPOUT))

    proxies = self.param("class_embedding", normal(std), (width,))[None]
    if self.added_proxies:
      added = self.param("added_proxies", normal(1.0), (self.added_proxies, width))
      proxies = jnp.concatenate([proxies, added])
    # Every proxy takes the class token's position and no time.
    proxies = einops.repeat(proxies + position[0], "m d -> b m d", b=batch)
    return jnp.concatenate([proxies, einops.rearrange(patches, "b t l d -> b (t l) d")], axis=1)

  def _patches(self, video: Float[Array, "b t s s 3"]) -> Float[Array, "b t l d"]:
    """The stride-P convolution without bias, as one matrix product over flattened patches."""
    p = self.patch_size
    kernel = self.param("patch_embedding", nn.initializers.normal(0.02), (p, p, 3, self.width))
    pixels = einops.rearrange(video, "b t (y p) (x q) c -> (b t y x) (p q c)", p=p, q=p)
    patches = dense(pixels.astype(self.dtype), kernel.reshape(-1, self.width), None)
    return patches.reshape(*video.shape[:2], -1, self.width)
