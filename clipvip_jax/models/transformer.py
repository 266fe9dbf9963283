"""CLIP's pre-norm transformer, for any attention pattern.

Letters: B batch, N tokens, D width, H heads, d = D / H.
"""

from collections.abc import Callable

import einops
import flax.struct
import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from clipvip_jax.models.attention import AttentionPattern, single_query_attention
from clipvip_jax.models.proxy_attention import proxy_weights

INTERMEDIATES = "intermediates"  # Flax's collection for values that modules sow
PROXY_WEIGHTS = "proxy_weights"  # sown by Attention
LAYER_NORM_EPSILON = 1e-5

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
  # OpenAI's CLIP and CLIP-ViP.
  "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
  # LAION's OpenCLIP weights. Flax's default is the tanh approximation.
  "gelu": lambda x: jax.nn.gelu(x, approximate=False),
}


def layer_norm(dtype: DTypeLike, name: str) -> nn.LayerNorm:
  """LayerNorm as in PyTorch: epsilon 1e-5, variance of centred values (Flax's fast variance suffers cancellation)."""
  return nn.LayerNorm(epsilon=LAYER_NORM_EPSILON, use_fast_variance=False, dtype=dtype, name=name)


@jax.custom_vjp
def dense(x: Float[Array, "n d"], kernel: Float[Array, "d e"], bias: Float[Array, " e"] | None) -> Float[Array, "n e"]:
  """x @ kernel + bias in the dtype of x, with gradients of kernel and bias accumulated in float32.

  JAX's own gradients would be rounded to the dtype of x. In bfloat16, devices would then sum rounded gradients, and
  the result would depend on the number of devices.
  """
  y = x @ kernel.astype(x.dtype)
  return y if bias is None else y + bias.astype(x.dtype)


def _dense_forward(x, kernel, bias):
  return dense(x, kernel, bias), (x, kernel, bias)


def _dense_backward(residuals, gradient):
  x, kernel, bias = residuals
  kernel_gradient = jnp.matmul(x.T, gradient, preferred_element_type=kernel.dtype)
  bias_gradient = None if bias is None else gradient.sum(0, dtype=bias.dtype)
  return gradient @ kernel.astype(x.dtype).T, kernel_gradient, bias_gradient


dense.defvjp(_dense_forward, _dense_backward)


class TokenDense(nn.Module):
  """Dense layer over [..., D], computed on the flattened [tokens, D].

  On CPUs, XLA's gradients of a product over [B, N, D] are about twice as slow as those over [B N, D].

  Attributes:
    features: output width.
    std: standard deviation of the initial kernel.
  """

  features: int
  std: float
  use_bias: bool = True
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "*b d"]) -> Float[Array, "*b e"]:
    kernel = self.param("kernel", nn.initializers.normal(self.std), (x.shape[-1], self.features))
    bias = self.param("bias", nn.initializers.zeros, (self.features,)) if self.use_bias else None
    y = dense(x.reshape(-1, x.shape[-1]).astype(self.dtype), kernel, bias)
    return y.reshape(*x.shape[:-1], self.features)


@flax.struct.dataclass
class TokenReadout:
  """Position of the token that a tower's feature is read from. The last block computes only that token.

  Attributes:
    index: position of the token in each sample.
    mask: tokens that it attends to.
  """

  index: Int[Array, " b"]
  mask: Bool[Array, "b n"]

  def take(self, x: Float[Array, "b n d"]) -> Float[Array, "b 1 d"]:
    """Selects the token of each sample."""
    return jnp.take_along_axis(x, self.index[:, None, None], axis=1)


class Attention(nn.Module):
  """Multi-head attention with biases.

  Sows the attention weights of the leading `num_proxies` tokens, see `proxy_attention.proxy_weights`, where the
  collection INTERMEDIATES is mutable.

  Attributes:
    heads: number of heads.
    layers: number of blocks in the tower, which sets the scale of the initial output projection.
    pattern: decides which token attends to which.
    num_proxies: tokens whose attention weights are sown; 0: none.
  """

  heads: int
  layers: int
  pattern: AttentionPattern
  dtype: DTypeLike = jnp.float32
  num_proxies: int = 0

  @nn.compact
  def __call__(self, x: Float[Array, "b n d"], readout: TokenReadout | None = None) -> Float[Array, "b q d"]:
    """Returns all tokens, or only that of `readout`."""
    width = x.shape[-1]

    def heads(name: str, x: Array) -> Array:
      y = TokenDense(width, std=width**-0.5, dtype=self.dtype, name=name)(x)
      return einops.rearrange(y, "b n (h d) -> b n h d", h=self.heads)

    query = heads("query", x if readout is None else readout.take(x)) * (width // self.heads) ** -0.5
    key, value = heads("key", x), heads("value", x)
    if self.num_proxies and self.is_mutable_collection(INTERMEDIATES):
      self.sow(INTERMEDIATES, PROXY_WEIGHTS, proxy_weights(query, key, self.num_proxies))
    y = self.pattern(query, key, value) if readout is None else single_query_attention(query, key, value, readout.mask)
    y = einops.rearrange(y, "b n h d -> b n (h d)")
    return TokenDense(width, std=(2 * self.layers * width) ** -0.5, dtype=self.dtype, name="out")(y)


class Mlp(nn.Module):
  """Feed-forward half of a block."""

  hidden: int
  layers: int
  activation: str
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
    width = x.shape[-1]
    y = TokenDense(self.hidden, std=(2 * width) ** -0.5, dtype=self.dtype, name="up")(x)
    y = ACTIVATIONS[self.activation](y)
    return TokenDense(width, std=(2 * self.layers * width) ** -0.5, dtype=self.dtype, name="down")(y)


class Block(nn.Module):
  """Pre-norm block: x + attention(norm(x)), then x + mlp(norm(x)). Attributes as of Transformer."""

  heads: int
  mlp: int
  layers: int
  activation: str
  pattern: AttentionPattern
  dtype: DTypeLike = jnp.float32
  num_proxies: int = 0

  @nn.compact
  def __call__(self, x: Float[Array, "b n d"], readout: TokenReadout | None = None) -> Float[Array, "b q d"]:
    """Returns all tokens, or only that of `readout`."""
    attention = Attention(self.heads, self.layers, self.pattern, self.dtype, self.num_proxies, name="attention")
    attended = attention(layer_norm(self.dtype, "attention_norm")(x), readout)
    x = (x if readout is None else readout.take(x)) + attended
    mlp = Mlp(self.mlp, self.layers, self.activation, self.dtype, name="mlp")
    return x + mlp(layer_norm(self.dtype, "mlp_norm")(x))


class Transformer(nn.Module):
  """Stack of blocks with a common attention pattern.

  All blocks but the last are identical, so JAX traces one of them (`nn.jit`); the compiler inlines them again.

  Attributes:
    layers: number of blocks; also scales the initial residual branches, as in CLIP.
    heads: attention heads.
    mlp: hidden units of the feed-forward layers.
    activation: a key of ACTIVATIONS.
    dtype: of the computation.
    remat: whether the backward pass recomputes activations in place of storing them: less memory for about a third
      more time.
    num_proxies: see Attention.
  """

  layers: int
  heads: int
  mlp: int
  activation: str
  dtype: DTypeLike = jnp.float32
  remat: bool = False
  num_proxies: int = 0

  @nn.compact
  def __call__(
    self, x: Float[Array, "b n d"], pattern: AttentionPattern, readout: TokenReadout | None = None
  ) -> Float[Array, "b q d"]:
    """Returns all tokens, or only that of `readout`."""
    block_type = nn.jit(nn.remat(Block) if self.remat else Block)
    for i in range(self.layers):
      block = block_type(
        self.heads,
        self.mlp,
        self.layers,
        self.activation,
        pattern,
        self.dtype,
        self.num_proxies,
        name=f"block_{i}",
      )
      x = block(x, readout if i == self.layers - 1 else None)
    return x
