"""Initial values of the embeddings, by `model.embedding_init`.

"clip": CLIP's distributions, and zeros for the time embedding, which keeps the features of loaded weights.
"scratch": for training from random weights. Position and time embeddings are sinusoidal, so that neighbours in space
and time start alike and a small model learns motion sooner; token embeddings are large, so that a single differing
word separates two texts from the start.

Letters: L patches per frame, T0 rows of the time embedding, D width.
"""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

Initializer = Callable[..., Array]  # (key, shape, dtype) -> array

EMBEDDING_INITS = ("clip", "scratch")


def _sinusoids(coordinates: Float[np.ndarray, " n"], width: int) -> Float[np.ndarray, "n w"]:
  """Sines and cosines of coordinates in [0, 1], from a quarter to two periods over the range; pairs have unit norm."""
  angles = coordinates[:, None] * np.pi * np.geomspace(0.5, 4.0, width // 2)
  return np.concatenate([np.sin(angles), np.cos(angles)], axis=1) * 0.5**0.5


def _cell_centres(count: int) -> Float[np.ndarray, " n"]:
  return (np.arange(count) + 0.5) / count


def sincos_position(key: Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> Float[Array, "1+l d"]:
  """Zeros for the proxies, then sinusoids over rows and columns of the patches' square grid."""
  del key
  count, width = shape
  side = round((count - 1) ** 0.5)
  rows, columns = np.meshgrid(_cell_centres(side), _cell_centres(side), indexing="ij")
  grid = np.concatenate([_sinusoids(axis.ravel(), width // 2) for axis in (rows, columns)], axis=1)
  return jnp.asarray(np.concatenate([np.zeros((1, width)), grid]), dtype)


def sincos_time(key: Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> Float[Array, "t0 d"]:
  """Sinusoids over time."""
  del key
  return jnp.asarray(_sinusoids(_cell_centres(shape[0]), shape[1]), dtype)


POSITION: dict[str, Initializer] = {
  "clip": nn.initializers.variance_scaling(1.0, "fan_out", "normal"),
  "scratch": sincos_position,
}
TIME: dict[str, Initializer] = {"clip": nn.initializers.zeros, "scratch": sincos_time}
TOKEN: dict[str, Initializer] = {
  "clip": nn.initializers.normal(0.02),
  "scratch": nn.initializers.normal(1.0),
}
TEXT_POSITION: dict[str, Initializer] = {
  "clip": nn.initializers.normal(0.01),
  "scratch": nn.initializers.normal(0.2),
}
