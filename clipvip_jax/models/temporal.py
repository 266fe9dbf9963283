"""From an image tower to a video feature without attention across frames: baselines that the paper compares against.

Letters: B batch, T frames, S side in pixels, E embedding size.
"""

from collections.abc import Callable
from typing import Any

import einops
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from clipvip_jax.models.proxy_attention import full
from clipvip_jax.models.transformer import Transformer


def l2_normalize(x: Float[Array, "*b e"]) -> Float[Array, "*b e"]:
  """x / |x| along the last axis, in float32."""
  x = x.astype(jnp.float32)
  return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def each_frame(image_features: Callable[[Array], Array], video: Float[Array, "b t s s 3"]) -> Float[Array, "b t e"]:
  """Every frame through the image tower as a clip of its own."""
  frames = einops.rearrange(video, "b t y x c -> (b t) 1 y x c")
  return einops.rearrange(image_features(frames), "(b t) e -> b t e", t=video.shape[1])


def mean_pooling(frames: Float[Array, "b t e"]) -> Float[Array, "b e"]:
  """Frames' features at unit length, averaged. Not yet of unit length itself."""
  return einops.reduce(l2_normalize(frames), "b t e -> b e", "mean")


class SequenceTransformer(nn.Module):
  """A transformer over the features of frames, added to them: [B, T, E] -> [B, T, E].

  The sequential variant of CLIP4Clip (Luo et al., arXiv 2104.08860, section 3.3): learned positions, blocks like the
  text tower's without its causal mask, and a residual around all of it. It starts as the first blocks of the text tower
  where these are as wide (see weights/initialize.py).
  """

  positions: int  # the most frames
  layers: int
  heads: int
  mlp: int
  activation: str
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, frames: Float[Array, "b t e"]) -> Float[Array, "b t e"]:
    count, width = frames.shape[1:]
    if count > self.positions:
      raise ValueError(f"clips of {count} frames, but the sequence transformer has {self.positions} positions")
    position = self.param("position_embedding", nn.initializers.normal(0.01), (self.positions, width))
    tokens = (frames + position[:count]).astype(self.dtype)
    transformer = Transformer(self.layers, self.heads, self.mlp, self.activation, self.dtype, name="transformer")
    return frames + transformer(tokens, full)
