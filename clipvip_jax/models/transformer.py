"""CLIP's pre-norm transformer block, given an attention pattern.

Letters: B batch, N tokens, D width, H heads, d = D / H.
"""

from collections.abc import Callable
from typing import Any

import einops
import flax.struct
import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from clipvip_jax.models.proxy_attention import single_query_attention

LAYER_NORM_EPSILON = 1e-5

ACTIVATIONS: dict[str, Callable] = {
  # OpenAI's CLIP and CLIP-ViP.
  "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
  # LAION's OpenCLIP weights. Flax's default is the tanh approximation.
  "gelu": lambda x: jax.nn.gelu(x, approximate=False),
}

# (query, key, value) [B, N, H, d] -> [B, N, H, d]; see proxy_attention.py.
AttentionPattern = Callable[..., Array]


def layer_norm(dtype: Any, name: str) -> nn.LayerNorm:
  """LayerNorm as PyTorch computes it: epsilon 1e-5, and the variance from centred values (Flax's fast one cancels)."""
  return nn.LayerNorm(epsilon=LAYER_NORM_EPSILON, use_fast_variance=False, dtype=dtype, name=name)


@jax.custom_vjp
def dense(x: Float[Array, "n d"], kernel: Float[Array, "d e"], bias: Float[Array, " e"] | None) -> Float[Array, "n e"]:
  """x times kernel plus bias, in the type of x; the gradients by kernel and bias are summed in their own, float32.

  Left to itself JAX rounds these gradients to bfloat16 where that is what x is, and devices then add them in bfloat16,
  so that the sum would depend on their number.
  """
  y = x @ kernel.astype(x.dtype)
  return y if bias is None else y + bias.astype(x.dtype)


def _dense_forward(x, kernel, bias):
  return dense(x, kernel, bias), (x, kernel, bias)


def _dense_backward(residuals, gradient):
  x, kernel, bias = residuals
  by_kernel = jnp.matmul(x.T, gradient, preferred_element_type=kernel.dtype)
  by_bias = None if bias is None else gradient.sum(0, dtype=bias.dtype)
  return gradient @ kernel.astype(x.dtype).T, by_kernel, by_bias


dense.defvjp(_dense_forward, _dense_backward)


class TokenDense(nn.Module):
  """A dense layer over [..., D], computed over the flattened [tokens, D].

  XLA's CPU gradients of a product over [B, N, D] are about twice as slow as those over [B N, D].
  """

  features: int
  std: float
  use_bias: bool = True
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "*b d"]) -> Float[Array, "*b e"]:
    kernel = self.param("kernel", nn.initializers.normal(self.std), (x.shape[-1], self.features))
    bias = self.param("bias", nn.initializers.zeros, (self.features,)) if self.use_bias else None
    y = dense(x.reshape(-1, x.shape[-1]).astype(self.dtype), kernel, bias)
    return y.reshape(*x.shape[:-1], self.features)


@flax.struct.dataclass
class TokenReadout:
  """The one token of each sample that is read from a tower's last block, which computes no other.

  Attributes:
    index: [B], of the token.
    sees: [B, N], which tokens it attends to.
  """

  index: Int[Array, " b"]
  sees: Bool[Array, "b n"]

  def take(self, x: Float[Array, "b n d"]) -> Float[Array, "b 1 d"]:
    """The token itself."""
    return jnp.take_along_axis(x, self.index[:, None, None], axis=1)


class Attention(nn.Module):
  """Multi-head attention with biases; `pattern` decides which token attends to which."""

  heads: int
  layers: int
  pattern: AttentionPattern
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "b n d"], reader: TokenReadout | None = None) -> Float[Array, "b q d"]:
    width = x.shape[-1]

    def heads(name: str, x: Array) -> Array:
      y = TokenDense(width, std=width**-0.5, dtype=self.dtype, name=name)(x)
      return einops.rearrange(y, "b n (h d) -> b n h d", h=self.heads)

    query = heads("query", x if reader is None else reader.take(x)) * (width // self.heads) ** -0.5
    key, value = heads("key", x), heads("value", x)
    y = self.pattern(query, key, value) if reader is None else single_query_attention(query, key, value, reader.sees)
    y = einops.rearrange(y, "b n h d -> b n (h d)")
    return TokenDense(width, std=(2 * self.layers * width) ** -0.5, dtype=self.dtype, name="out")(y)


class Mlp(nn.Module):
  """The feed-forward half of a block."""

  hidden: int
  layers: int
  activation: str
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
    width = x.shape[-1]
    y = TokenDense(self.hidden, std=(2 * width) ** -0.5, dtype=self.dtype, name="up")(x)
    y = ACTIVATIONS[self.activation](y)
    return TokenDense(width, std=(2 * self.layers * width) ** -0.5, dtype=self.dtype, name="down")(y)


class Block(nn.Module):
  """x + attention(norm(x)), then x + mlp(norm(x)); of one token alone, where there is a reader."""

  heads: int
  mlp: int
  layers: int  # of the whole tower: CLIP starts deeper towers from smaller residual branches
  activation: str
  pattern: AttentionPattern
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "b n d"], reader: TokenReadout | None = None) -> Float[Array, "b q d"]:
    attention = Attention(self.heads, self.layers, self.pattern, self.dtype, name="attention")
    attended = attention(layer_norm(self.dtype, "attention_norm")(x), reader)
    x = (x if reader is None else reader.take(x)) + attended
    mlp = Mlp(self.mlp, self.layers, self.activation, self.dtype, name="mlp")
    return x + mlp(layer_norm(self.dtype, "mlp_norm")(x))


class Transformer(nn.Module):
  """`layers` blocks that share one attention pattern.

  Attributes:
    remat: a block's activations are computed again for its gradient, in place of being kept: memory for a third more
      time.
    trace_once: blocks but the last are alike, so JAX traces one of them, which makes tracing as much faster as there
      are blocks (the compiler unrolls them again); not where a pattern lets arrays out.
  """

  layers: int
  heads: int
  mlp: int
  activation: str
  dtype: Any = jnp.float32
  remat: bool = False
  trace_once: bool = True

  @nn.compact
  def __call__(
    self, x: Float[Array, "b n d"], pattern: AttentionPattern, reader: TokenReadout | None = None
  ) -> Float[Array, "b q d"]:
    """All tokens, or the one of `reader`."""
    block_type = nn.remat(Block) if self.remat else Block
    block_type = nn.jit(block_type) if self.trace_once else block_type
    for i in range(self.layers):
      block = block_type(self.heads, self.mlp, self.layers, self.activation, pattern, self.dtype, name=f"block_{i}")
      x = block(x, reader if i == self.layers - 1 else None)
    return x
