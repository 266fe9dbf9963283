"""Video features without attention across frames: the temporal baselines of the paper.

Letters: B batch, T frames, S side in pixels, E embedding size.
"""

from collections.abc import Callable

import einops
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from clipvip_jax.models.attention import full
from clipvip_jax.models.transformer import Transformer


def l2_normalize(x: Float[Array, "*b e"]) -> Float[Array, "*b e"]:
  """Divides by the L2 norm along the last axis, in float32."""
  x = x.astype(jnp.float32)
  return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def each_frame(image_features: Callable[[Array], Array], video: Float[Array, "b t s s 3"]) -> Float[Array, "b t e"]:
  """Embeds every frame as a clip of one frame."""
  frames = einops.rearrange(video, "b t y x c -> (b t) 1 y x c")
  return einops.rearrange(image_features(frames), "(b t) e -> b t e", t=video.shape[1])


def mean_pooling(frames: Float[Array, "b t e"]) -> Float[Array, "b e"]:
  """Averages L2-normalised frame features. The mean itself is not normalised."""
  return einops.reduce(l2_normalize(frames), "b t e -> b e", "mean")


class SequenceTransformer(nn.Module):
  """Transformer over frame features, added to them: [B, T, E] -> [B, T, E].

  The sequential variant of CLIP4Clip (Luo et al., arXiv 2104.08860, section 3.3): learned positions, blocks like the
  text tower's but without the causal mask, and one residual connection around all of it. It is initialised from the
  text tower's first blocks where their width matches; see `weights/load_params.py`.

  Attributes:
    positions: maximum number of frames.
    layers: number of blocks.
    heads: attention heads.
    mlp: hidden units of the feed-forward layers.
    activation: a key of dense.ACTIVATIONS.
    dtype: of the computation.
  """

  positions: int
  layers: int
  heads: int
  mlp: int
  activation: str
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, frames: Float[Array, "b t e"]) -> Float[Array, "b t e"]:
    num_frames, width = frames.shape[1:]
    if num_frames > self.positions:
      raise ValueError(f"clip of {num_frames} frames exceeds the sequence transformer's {self.positions} positions")
    position = self.param("position_embedding", nn.initializers.normal(0.01), (self.positions, width))
    tokens = (frames + position[:num_frames]).astype(self.dtype)
    transformer = Transformer(self.layers, self.heads, self.mlp, self.activation, self.dtype, name="transformer")
    return frames + transformer(tokens, full)
