"""Normalization of uint8 pixels on the device, inside a jitted program: the second half of `preprocessing`."""

import jax.numpy as jnp
from jaxtyping import Array, Float32, UInt8

from clipvip_jax.input_pipeline import preprocessing


def normalize(pixels: UInt8[Array, "*b s s 3"] | Float32[Array, "*b s s 3"]) -> Float32[Array, "*b s s 3"]:
  """Normalizes the colours of frames as CLIP does, (x / 255 - MEAN) / STD; pixels that are float32 are normalized."""
  if pixels.dtype != jnp.uint8:
    return pixels
  scale, shift = preprocessing.affine()
  return pixels.astype(jnp.float32) * scale - shift
