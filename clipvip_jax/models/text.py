"""CLIP's text tower. Letters: B batch, S tokens, D width, E embedding size."""

import functools
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from clipvip_jax.models.proxy_attention import causal, resolve_implementation
from clipvip_jax.models.transformer import TokenDense, TokenReadout, Transformer, layer_norm

# How the embeddings of tokens and positions start. "clip": as CLIP's. "scratch": large, for random weights; a single
# word that tells two texts apart is then heard from the start, also by a small model.
EMBEDDING_INITS = {
  "clip": (nn.initializers.normal(0.02), nn.initializers.normal(0.01)),
  "scratch": (nn.initializers.normal(1.0), nn.initializers.normal(0.2)),
}


class TextTower(nn.Module):
  """Token ids [B, S] -> features [B, E], not yet of unit length.

  Pooled at the first position of the largest id, which is the end of the text. Attention is causal, so whatever
  stands behind the end cannot reach the features: padding needs no mask.
  """

  vocab_size: int
  positions: int
  width: int
  layers: int
  heads: int
  mlp: int
  embed_dim: int
  activation: str
  embedding_init: str  # a key of EMBEDDING_INITS
  dtype: Any = jnp.float32
  remat: bool = False
  attention: str = "xla"  # one of proxy_attention.IMPLEMENTATIONS

  @nn.compact
  def __call__(self, ids: Int[Array, "b s"]) -> Float[Array, "b e"]:
    if ids.shape[1] > self.positions:
      raise ValueError(f"texts of {ids.shape[1]} tokens, but the text tower has {self.positions} positions")
    token_init, position_init = EMBEDDING_INITS[self.embedding_init]
    embedding = self.param("token_embedding", token_init, (self.vocab_size, self.width))
    position = self.param("position_embedding", position_init, (self.positions, self.width))
    tokens = (embedding[ids] + position[: ids.shape[1]]).astype(self.dtype)
    sizes = self.layers, self.heads, self.mlp, self.activation, self.dtype, self.remat
    transformer = Transformer(*sizes, name="transformer")
    pattern = functools.partial(causal, implementation=resolve_implementation(self.attention, self.dtype))
    end = jnp.argmax(ids, axis=1)
    pooled = transformer(tokens, pattern, TokenReadout(end, jnp.arange(ids.shape[1]) <= end[:, None]))[:, 0]
    pooled = layer_norm(self.dtype, "final_norm")(pooled)
    projection = TokenDense(self.embed_dim, std=self.width**-0.5, use_bias=False, dtype=self.dtype, name="projection")
    return projection(pooled)
