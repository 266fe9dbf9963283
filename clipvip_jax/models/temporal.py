"""From an image tower to a video feature without video attention: the baselines that the paper compares against.

Letters: B batch, T frames, S side in pixels, E embedding size.
"""

from collections.abc import Callable

import einops
import jax.numpy as jnp
from jaxtyping import Array, Float


def unit(x: Float[Array, "*b e"]) -> Float[Array, "*b e"]:
  """x / |x| along the last axis, in float32."""
  x = x.astype(jnp.float32)
  return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def mean_pooling(image_features: Callable[[Array], Array], video: Float[Array, "b t s s 3"]) -> Float[Array, "b e"]:
  """Each frame through the image tower, to unit length, and averaged over the frames. Not yet of unit length."""
  frames = einops.rearrange(video, "b t y x c -> (b t) 1 y x c")
  features = unit(image_features(frames))
  return einops.reduce(features, "(b t) e -> b e", "mean", t=video.shape[1])
