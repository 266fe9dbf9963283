"""Vision tower with video proxies (section 3.3 of the paper). An image is a clip of one frame.

Letters: B batch, T frames, S side in pixels, P patch side, L = (S / P)^2 patches per frame, M proxies, D width,
E embedding size, T0 rows of the time embedding.
"""

import functools

import einops
import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import NamedSharding
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from clipvip_jax.models import initializers
from clipvip_jax.models.attention import AttentionPattern, full, resolve_implementation, without_pallas
from clipvip_jax.models.dense import TokenDense, dense
from clipvip_jax.models.layer_norm import LayerNorm
from clipvip_jax.models.proxy_attention import proxy_guided
from clipvip_jax.models.transformer import INTERMEDIATES, TokenReadout, Transformer

# RNG stream of patch dropout; without it, as in evaluation, all patches are kept.
PATCH_DROPOUT = "patch_dropout"


def resize_time(time: Float[Array, "t0 d"], num_frames: int) -> Float[Array, "t d"]:
  """Resizes the time embedding linearly, with half-pixel centres and no antialiasing, as PyTorch's interpolate does."""
  if time.shape[0] == num_frames:
    return time
  return jax.image.resize(time, (num_frames, time.shape[1]), method="linear", antialias=False)


def drop_patches(patches: Float[Array, "b t l d"], rate: float, key: Array) -> Float[Array, "b t k d"]:
  """Keeps a random subset of each frame's patches, drawn per frame: round((1 - rate) L) of them, at least one."""
  count = max(1, round((1 - rate) * patches.shape[2]))
  kept = jnp.argsort(jax.random.uniform(key, patches.shape[:3]), axis=-1)[..., :count]
  return jnp.take_along_axis(patches, kept[..., None], axis=2)


class VisionTower(nn.Module):
  """Video [B, T, S, S, 3] of normalised pixels -> features [B, E], not normalised.

  Attributes:
    time_positions: T0; 0: no time embedding.
    embedding_init: one of initializers.EMBEDDING_INITS.
    activation: a key of dense.ACTIVATIONS.
    full_attention: full space-time attention in place of proxy-guided attention.
    patch_dropout: fraction of each frame's patches to drop in training.
    remat: whether to rematerialise blocks; see Transformer.
    attention: one of attention.IMPLEMENTATIONS.
    heads_sharding: of queries, keys and values [B, N, H d] over several devices, for attention="pallas".
  """

  image_size: int
  patch_size: int
  width: int
  layers: int
  heads: int
  mlp: int
  embed_dim: int
  added_proxies: int
  time_positions: int
  embedding_init: str
  activation: str
  dtype: DTypeLike = jnp.float32
  full_attention: bool = False
  patch_dropout: float = 0.0
  remat: bool = False
  attention: str = "xla"
  heads_sharding: NamedSharding | None = None

  @property
  def num_proxies(self) -> int:
    """M: the class token and the added proxies."""
    return 1 + self.added_proxies

  @nn.compact
  def __call__(self, video: Float[Array, "b t s s 3"]) -> Float[Array, "b e"]:
    """Computes features; sows the proxies' attention weights in every block where INTERMEDIATES is mutable."""
    tokens = self._embed(video).astype(self.dtype)
    tokens = LayerNorm(self.dtype, name="pre_norm")(tokens)
    # The feature is read from the class token, which attends to all tokens under both patterns. Sown attention weights
    # need all proxies in the last block.
    readout = TokenReadout(jnp.zeros(len(tokens), jnp.int32), jnp.ones(tokens.shape[:2], bool))
    transformer = Transformer(
      self.layers,
      self.heads,
      self.mlp,
      self.activation,
      self.dtype,
      self.remat,
      self.num_proxies,
      name="transformer",
    )
    sows = self.is_mutable_collection(INTERMEDIATES)
    tokens = transformer(tokens, self._pattern(video.shape[1]), None if sows else readout)
    pooled = LayerNorm(self.dtype, name="post_norm")(tokens[:, 0])
    projection = TokenDense(self.embed_dim, std=self.width**-0.5, use_bias=False, dtype=self.dtype, name="projection")
    return projection(pooled)

  def _pattern(self, num_frames: int) -> AttentionPattern:
    implementation = resolve_implementation(self.attention, self.dtype)
    if self.full_attention:
      return functools.partial(full, implementation=implementation)
    if self.is_initializing():  # by one clip, which several devices cannot share
      implementation = without_pallas(implementation, self.dtype)
    return functools.partial(
      proxy_guided,
      num_proxies=self.num_proxies,
      num_frames=num_frames,
      implementation=implementation,
      sharding=self.heads_sharding,
    )

  def _embed(self, video: Float[Array, "b t s s 3"]) -> Float[Array, "b n d"]:
    """Returns `[M proxies, frame 0's L patches, ...]` with position and time embeddings added."""
    patches = self._embed_patches(video)
    batch, num_frames, num_patches, width = patches.shape
    position_init, time_init = (table[self.embedding_init] for table in (initializers.POSITION, initializers.TIME))
    position = self.param("position_embedding", position_init, (1 + num_patches, width))
    patches = patches + position[1:]
    if self.time_positions:
      time = self.param("time_embedding", time_init, (self.time_positions, width))
      patches = patches + resize_time(time, num_frames)[:, None]
    if self.patch_dropout and self.has_rng(PATCH_DROPOUT):
      patches = drop_patches(patches, self.patch_dropout, self.make_rng(PATCH_DROPOUT))

    proxies = self.param("class_embedding", nn.initializers.normal(width**-0.5), (width,))[None]
    if self.added_proxies:
      added = self.param("added_proxies", nn.initializers.normal(1.0), (self.added_proxies, width))
      proxies = jnp.concatenate([proxies, added])
    # All proxies have the class token's position embedding and no time embedding.
    proxies = einops.repeat(proxies + position[0], "m d -> b m d", b=batch)
    return jnp.concatenate([proxies, einops.rearrange(patches, "b t l d -> b (t l) d")], axis=1)

  def _embed_patches(self, video: Float[Array, "b t s s 3"]) -> Float[Array, "b t l d"]:
    """Computes a convolution of stride P without bias, as one matrix product over flattened patches."""
    p = self.patch_size
    kernel = self.param("patch_embedding", nn.initializers.normal(0.02), (p, p, 3, self.width))
    pixels = einops.rearrange(video, "b t (y p) (x q) c -> (b t y x) (p q c)", p=p, q=p)
    patches = dense(pixels.astype(self.dtype), kernel.reshape(-1, self.width), None)
    return patches.reshape(*video.shape[:2], -1, self.width)
