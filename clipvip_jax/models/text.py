"""CLIP's text tower. Letters: B batch, S tokens, D width, E embedding size."""

import functools

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from clipvip_jax.models import initializers
from clipvip_jax.models.attention import causal, resolve_implementation
from clipvip_jax.models.dense import TokenDense
from clipvip_jax.models.layer_norm import LayerNorm
from clipvip_jax.models.transformer import TokenReadout, Transformer


class TextTower(nn.Module):
  """Token ids [B, S] -> features [B, E], not normalised.

  Pools the first position of the largest id, the end-of-text token. Attention is causal, so padding after it cannot
  reach the features and needs no mask.

  Attributes:
    positions: maximum number of tokens.
    embedding_init: one of initializers.EMBEDDING_INITS.
    activation: a key of dense.ACTIVATIONS.
    remat: whether to rematerialise blocks; see Transformer.
    attention: one of attention.IMPLEMENTATIONS.
  """

  vocab_size: int
  positions: int
  width: int
  layers: int
  heads: int
  mlp: int
  embed_dim: int
  activation: str
  embedding_init: str
  dtype: DTypeLike = jnp.float32
  remat: bool = False
  attention: str = "xla"

  @nn.compact
  def __call__(self, ids: Int[Array, "b s"]) -> Float[Array, "b e"]:
    num_tokens = ids.shape[1]
    if num_tokens > self.positions:
      raise ValueError(f"text of {num_tokens} tokens exceeds the text tower's {self.positions} positions")
    token_init, position_init = (
      table[self.embedding_init] for table in (initializers.TOKEN, initializers.TEXT_POSITION)
    )
    embedding = self.param("token_embedding", token_init, (self.vocab_size, self.width))
    position = self.param("position_embedding", position_init, (self.positions, self.width))
    tokens = (embedding[ids] + position[:num_tokens]).astype(self.dtype)
    pattern = functools.partial(causal, implementation=resolve_implementation(self.attention, self.dtype))
    end = jnp.argmax(ids, axis=1)
    readout = TokenReadout(end, jnp.arange(num_tokens) <= end[:, None])
    transformer = Transformer(
      self.layers, self.heads, self.mlp, self.activation, self.dtype, self.remat, name="transformer"
    )
    pooled = transformer(tokens, pattern, readout)[:, 0]
    pooled = LayerNorm(self.dtype, name="final_norm")(pooled)
    projection = TokenDense(self.embed_dim, std=self.width**-0.5, use_bias=False, dtype=self.dtype, name="projection")
    return projection(pooled)
