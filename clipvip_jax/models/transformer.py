"""CLIP's pre-norm transformer, for any attention pattern.

Letters: B batch, N tokens, D width, H heads, d = D / H.
"""

import einops
import flax.struct
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from clipvip_jax.models.attention import AttentionPattern, single_query_attention
from clipvip_jax.models.dense import ACTIVATIONS, TokenDense
from clipvip_jax.models.layer_norm import LayerNorm
from clipvip_jax.models.proxy_attention import proxy_weights

INTERMEDIATES = "intermediates"  # Flax's collection for values that modules sow
PROXY_WEIGHTS = "proxy_weights"  # sown by Attention


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
    hidden = TokenDense(self.hidden, std=(2 * width) ** -0.5, dtype=self.dtype, name="up")(x)
    activation, std = ACTIVATIONS[self.activation], (2 * self.layers * width) ** -0.5
    return TokenDense(width, std=std, dtype=self.dtype, activation=activation, name="down")(hidden)


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
    attended = attention(LayerNorm(self.dtype, name="attention_norm")(x), readout)
    x = (x if readout is None else readout.take(x)) + attended
    mlp = Mlp(self.mlp, self.layers, self.activation, self.dtype, name="mlp")
    return x + mlp(LayerNorm(self.dtype, name="mlp_norm")(x))


class Transformer(nn.Module):
  """Stack of blocks with a common attention pattern.

  All blocks but the last are identical, so JAX traces one of them (`nn.jit`); the compiler inlines them again.

  Attributes:
    layers: number of blocks; also scales the initial residual branches, as in CLIP.
    heads: attention heads.
    mlp: hidden units of the feed-forward layers.
    activation: a key of dense.ACTIVATIONS.
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
