"""Attention patterns: which token attends to which. Pure functions of queries, keys and values of all heads.

Letters: B batch, H heads, T frames, L patches per frame, M proxies, N = M + T L tokens, d head width. All patterns
take head-major arrays [B, H, N, d] with the queries already scaled by `d ** -0.5`, and return [B, H, N, d].
"""

import einops
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def attend(
  query: Float[Array, "*b q d"],
  key: Float[Array, "*b k d"],
  value: Float[Array, "*b k d"],
  mask: Bool[Array, "q k"] | None = None,
) -> Float[Array, "*b q d"]:
  """Softmax attention of every query to every key, or to those where `mask` is true. The softmax is float32."""
  scores = jnp.einsum("...qd,...kd->...qk", query, key, preferred_element_type=jnp.float32)
  if mask is not None:
    scores = jnp.where(mask, scores, jnp.finfo(jnp.float32).min)
  weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
  return jnp.einsum("...qk,...kd->...qd", weights, value)


def causal(
  query: Float[Array, "b h n d"], key: Float[Array, "b h n d"], value: Float[Array, "b h n d"]
) -> Float[Array, "b h n d"]:
  """Every token attends to itself and those before it: CLIP's text tower."""
  tokens = query.shape[-2]
  return attend(query, key, value, jnp.tril(jnp.ones((tokens, tokens), bool)))


def full(
  query: Float[Array, "b h n d"], key: Float[Array, "b h n d"], value: Float[Array, "b h n d"]
) -> Float[Array, "b h n d"]:
  """Every token attends to every token: full space-time attention, the most costly of the paper's baselines."""
  return attend(query, key, value)


def proxy_guided(
  query: Float[Array, "b h n d"],
  key: Float[Array, "b h n d"],
  value: Float[Array, "b h n d"],
  *,
  num_proxies: int,
  num_frames: int,
) -> Float[Array, "b h n d"]:
  """Proxy-guided attention (section 3.3 of the paper) over `[M proxies, frame 0's L patches, frame 1's, ...]`.

  A proxy attends to all M + T L tokens; a patch to the M proxies and the L patches of its own frame, in one softmax.
  Frames meet only through the proxies. Both are dense products without a mask: T L (M + L) + M (M + T L) scores
  instead of the (M + T L)^2 of full attention.
  """
  proxy_query, patch_query = query[:, :, :num_proxies], query[:, :, num_proxies:]
  proxies = attend(proxy_query, key, value)

  def by_frame(tokens):
    return einops.rearrange(tokens, "b h (t l) d -> b h t l d", t=num_frames)

  def proxies_and_frame(tokens):
    """[B, H, T, M + L, d]: what the patches of each frame may see."""
    shared = einops.repeat(tokens[:, :, :num_proxies], "b h m d -> b h t m d", t=num_frames)
    return jnp.concatenate([shared, by_frame(tokens[:, :, num_proxies:])], axis=3)

  patches = attend(by_frame(patch_query), proxies_and_frame(key), proxies_and_frame(value))
  return jnp.concatenate([proxies, einops.rearrange(patches, "b h t l d -> b h (t l) d")], axis=2)


def proxy_weights(
  query: Float[Array, "b h n d"], key: Float[Array, "b h n d"], *, num_proxies: int, num_frames: int
) -> Float[Array, "b m t l"]:
  """What the proxies look at: the share of each one's attention on each patch of each frame, averaged over heads.

  Under every pattern here a proxy attends to all tokens. The rest, up to 1, falls on the proxies themselves.
  """
  scores = jnp.einsum("bhmd,bhkd->bhmk", query[:, :, :num_proxies], key, preferred_element_type=jnp.float32)
  weights = jax.nn.softmax(scores, axis=-1)[..., num_proxies:]
  return einops.reduce(weights, "b h m (t l) -> b m t l", "mean", t=num_frames)
