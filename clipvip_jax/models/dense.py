"""Dense layers over tokens, with the gradients that CLIP-ViP trains with.

Letters: N tokens, D and E input and output width.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

Activation = Callable[[Array], Array]

ACTIVATIONS: dict[str, Activation] = {
  # OpenAI's CLIP and CLIP-ViP.
  "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
  # LAION's OpenCLIP weights. Flax's default is the tanh approximation.
  "gelu": lambda x: jax.nn.gelu(x, approximate=False),
}


def _identity(x: Array) -> Array:
  return x


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def dense(
  x: Float[Array, "n d"],
  kernel: Float[Array, "d e"],
  bias: Float[Array, " e"] | None,
  activation: Activation = _identity,
) -> Float[Array, "n e"]:
  """Computes activation(x) @ kernel + bias in the dtype of x; gradients of kernel and bias are summed in float32.

  JAX's own gradients would be rounded to the dtype of x. In bfloat16, devices would then sum rounded gradients, and
  the result would depend on the number of devices. The backward pass computes the activation again from x, the only
  array of this size that it keeps: JAX's would keep activation(x) and the activation's intermediate values as well.
  """
  y = activation(x) @ kernel.astype(x.dtype)
  return y if bias is None else y + bias.astype(x.dtype)


def _dense_forward(x, kernel, bias, activation):
  return dense(x, kernel, bias, activation), (x, kernel, bias)


def _dense_backward(activation, residuals, gradient):
  x, kernel, bias = residuals
  if activation is not _identity:
    x, gradient = jax.lax.optimization_barrier((x, gradient))  # or the compiler keeps the forward pass's activation(x)
  activated, activation_vjp = jax.vjp(activation, x)
  kernel_gradient = jnp.matmul(activated.T, gradient, preferred_element_type=kernel.dtype)
  bias_gradient = None if bias is None else gradient.sum(0, dtype=bias.dtype)
  (x_gradient,) = activation_vjp(gradient @ kernel.astype(x.dtype).T)
  return x_gradient, kernel_gradient, bias_gradient


dense.defvjp(_dense_forward, _dense_backward)


class TokenDense(nn.Module):
  """Dense layer over [..., D], computed on the flattened [tokens, D].

  On CPUs, XLA's gradients of a product over [B, N, D] are about twice as slow as those over [B N, D].

  Attributes:
    features: output width.
    std: standard deviation of the initial kernel.
    activation: applied to the input.
  """

  features: int
  std: float
  use_bias: bool = True
  dtype: DTypeLike = jnp.float32
  activation: Activation = _identity

  @nn.compact
  def __call__(self, x: Float[Array, "*b d"]) -> Float[Array, "*b e"]:
    kernel = self.param("kernel", nn.initializers.normal(self.std), (x.shape[-1], self.features))
    bias = self.param("bias", nn.initializers.zeros, (self.features,)) if self.use_bias else None
    y = dense(x.reshape(-1, x.shape[-1]).astype(self.dtype), kernel, bias, self.activation)
    return y.reshape(*x.shape[:-1], self.features)
