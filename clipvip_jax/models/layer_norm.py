"""Layer normalization (Ba et al., 2016, arXiv 1607.06450), with a backward pass that keeps little.

Letters: D width.
"""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

EPSILON = 1e-5  # PyTorch's


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def normalize(
  x: Float[Array, "*b d"], scale: Float[Array, " d"], bias: Float[Array, " d"], dtype: DTypeLike
) -> Float[Array, "*b d"]:
  """Computes (x - mean) / sqrt(variance + EPSILON) * scale + bias over the last axis in float32; rounds to `dtype`.

  The variance is that of centred values: E[x^2] - E[x]^2 suffers cancellation. The backward pass keeps x, which the
  residual stream keeps anyway, and two numbers per token; JAX's would keep the centred and the scaled values.
  """
  return _normalize_forward(x, scale, bias, dtype)[0]


def _normalize_forward(x, scale, bias, dtype):
  wide = x.astype(jnp.float32)
  mean = wide.mean(-1, keepdims=True)
  inverse_std = jax.lax.rsqrt(jnp.square(wide - mean).mean(-1, keepdims=True) + EPSILON)
  y = (wide - mean) * (inverse_std * scale) + bias
  return y.astype(dtype), (x, scale, mean, inverse_std)


def _normalize_backward(dtype, residuals, gradient):
  del dtype  # that of `gradient`
  x, scale, mean, inverse_std = residuals
  gradient = gradient.astype(jnp.float32)
  normalized = (x.astype(jnp.float32) - mean) * inverse_std
  scaled = gradient * scale
  x_gradient = scaled - scaled.mean(-1, keepdims=True) - normalized * (scaled * normalized).mean(-1, keepdims=True)
  tokens = tuple(range(x.ndim - 1))
  return (x_gradient * inverse_std).astype(x.dtype), (gradient * normalized).sum(tokens), gradient.sum(tokens)


normalize.defvjp(_normalize_forward, _normalize_backward)


class LayerNorm(nn.Module):
  """Layer normalization over the last axis, with a scale and a bias; see `normalize`.

  Attributes:
    dtype: of the result; statistics are float32.
  """

  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
    scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
    bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
    return normalize(x, scale, bias, self.dtype)
