"""The vision tower with video proxies (section 3.3 of the paper). An image is a clip of one frame.

Letters: B batch, T frames, S side in pixels, P patch side, L = (S / P)^2 patches per frame, M proxies, D width,
E embedding size, T0 rows of the time embedding.
"""

import functools
from typing import Any

import einops
import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from clipvip_jax.models.proxy_attention import proxy_guided
from clipvip_jax.models.transformer import TokenDense, Transformer, layer_norm


def resize_time(time: Float[Array, "t0 d"], num_frames: int) -> Float[Array, "t d"]:
  """The time embedding for `num_frames` frames: linear, half-pixel centres, no antialiasing, as PyTorch resizes."""
  if time.shape[0] == num_frames:
    return time
  return jax.image.resize(time, (num_frames, time.shape[1]), method="linear", antialias=False)


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
  time_init_std: float
  activation: str
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, video: Float[Array, "b t s s 3"]) -> Float[Array, "b e"]:
    num_frames = video.shape[1]
    tokens = self._embed(video).astype(self.dtype)
    tokens = layer_norm(self.dtype, "pre_norm")(tokens)
    pattern = functools.partial(proxy_guided, num_proxies=1 + self.added_proxies, num_frames=num_frames)
    transformer = Transformer(
      self.layers, self.heads, self.mlp, self.activation, self.dtype, name="transformer"
    )
    tokens = transformer(tokens, pattern)
    pooled = layer_norm(self.dtype, "post_norm")(tokens[:, 0])
    projection = TokenDense(
      self.embed_dim, std=self.width**-0.5, use_bias=False, dtype=self.dtype, name="projection"
    )
    return projection(pooled)

  def _embed(self, video: Float[Array, "b t s s 3"]) -> Float[Array, "b n d"]:
    """`[M proxies, frame 0's L patches, ...]`, with the embeddings of position and time added."""
    patches = self._patches(video)
    batch, num_frames, num_patches, width = patches.shape
    normal = nn.initializers.normal
    std = width**-0.5
    position = self.param("position_embedding", normal(std), (1 + num_patches, width))
    patches = patches + position[1:]
    if self.time_positions:
      time = self.param("time_embedding", normal(self.time_init_std), (self.time_positions, width))
      patches = patches + resize_time(time, num_frames)[:, None]

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
    patches = pixels.astype(self.dtype) @ kernel.reshape(-1, self.width).astype(self.dtype)
    return patches.reshape(*video.shape[:2], -1, self.width)
