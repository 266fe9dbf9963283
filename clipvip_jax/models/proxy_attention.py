"""Attention patterns: which token attends to which. Pure functions of queries, keys and values of all heads.

Letters: B batch, H heads, T frames, L patches per frame, M proxies, N = M + T L tokens, d head width. All patterns
take arrays [B, N, H, d] with the queries already scaled by `d ** -0.5`, and return [B, N, H, d].
"""

from typing import Any

import einops
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from clipvip_jax.utils.errors import UserError

# What computes attention: XLA's products around a float32 softmax; cuDNN's fused kernels, which never write scores to
# memory, for NVIDIA GPUs from Ampere on; "auto", these where they are (docs/performance.md). Where cuDNN has no kernel
# for the sizes, XLA computes.
IMPLEMENTATIONS = ("auto", "xla", "cudnn")
_OLDEST_CUDNN = 8.0  # compute capability


def has_cudnn(dtype: Any) -> bool:
  """Whether the devices that are there compute attention by cuDNN in `dtype`."""
  if dtype != jnp.bfloat16:
    return False
  device = jax.devices()[0]
  is_cuda = device.platform == "gpu" and "cuda" in device.client.platform_version
  return is_cuda and float(device.compute_capability) >= _OLDEST_CUDNN


def resolve_implementation(implementation: str, dtype: Any) -> str:
  """One of IMPLEMENTATIONS -> "xla" or "cudnn".

  Raises:
    UserError: "cudnn" is asked for where it is not.
  """
  if implementation == "cudnn" and not has_cudnn(dtype):
    raise UserError(
      "model.attention=cudnn needs model.dtype=bfloat16 and an NVIDIA GPU from Ampere on, not"
      f" {jnp.dtype(dtype).name} on {jax.devices()[0].device_kind}; model.attention=auto takes what there is"
    )
  return "cudnn" if implementation != "xla" and has_cudnn(dtype) else "xla"


def _fusible(head: int, *lengths: int) -> bool:
  """cuDNN has gradients for even numbers of queries and of keys alone, and for heads of these widths."""
  return not any(length % 2 for length in lengths) and not head % 8 and head <= 128


def attend(
  query: Float[Array, "*b q d"],
  key: Float[Array, "*b k d"],
  value: Float[Array, "*b k d"],
  mask: Bool[Array, "*#b #q k"] | None = None,
) -> Float[Array, "*b q d"]:
  """Softmax attention of every query to every key, or to those where `mask` is true. The softmax is float32."""
  scores = jnp.einsum("...qd,...kd->...qk", query, key, preferred_element_type=jnp.float32)
  if mask is not None:
    scores = jnp.where(mask, scores, jnp.finfo(jnp.float32).min)
  weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
  return jnp.einsum("...qk,...kd->...qd", weights, value)


def _fused(query: Array, key: Array, value: Array, *, is_causal: bool = False) -> Array:
  """The same of [*B, N, H, d] by cuDNN, whose softmax is float32 as well."""
  flat = (x.reshape(-1, *x.shape[-3:]) for x in (query, key, value))
  found = jax.nn.dot_product_attention(*flat, scale=1.0, is_causal=is_causal, implementation="cudnn")
  return found.reshape(query.shape)


def _by_heads(x: Array) -> Array:
  """[B, N, H, d] <-> [B, H, N, d], in which XLA's products are fastest, on CPUs and GPUs alike."""
  return jnp.swapaxes(x, 1, 2)


def causal(
  query: Float[Array, "b n h d"],
  key: Float[Array, "b n h d"],
  value: Float[Array, "b n h d"],
  *,
  implementation: str = "xla",
) -> Float[Array, "b n h d"]:
  """Every token attends to itself and those before it: CLIP's text tower."""
  tokens = query.shape[1]
  if implementation == "cudnn" and _fusible(query.shape[-1], tokens):
    return _fused(query, key, value, is_causal=True)
  mask = jnp.tril(jnp.ones((tokens, tokens), bool))
  return _by_heads(attend(_by_heads(query), _by_heads(key), _by_heads(value), mask))


def full(
  query: Float[Array, "b n h d"],
  key: Float[Array, "b n h d"],
  value: Float[Array, "b n h d"],
  *,
  implementation: str = "xla",
) -> Float[Array, "b n h d"]:
  """Every token attends to every token: full space-time attention, the most costly of the paper's baselines."""
  if implementation == "cudnn" and _fusible(query.shape[-1], query.shape[1]):
    return _fused(query, key, value)
  return _by_heads(attend(_by_heads(query), _by_heads(key), _by_heads(value)))


def proxy_guided(
  query: Float[Array, "b n h d"],
  key: Float[Array, "b n h d"],
  value: Float[Array, "b n h d"],
  *,
  num_proxies: int,
  num_frames: int,
  implementation: str = "xla",
) -> Float[Array, "b n h d"]:
  """Proxy-guided attention (section 3.3 of the paper) over `[M proxies, frame 0's L patches, frame 1's, ...]`.

  A proxy attends to all M + T L tokens; a patch to the M proxies and the L patches of its own frame, in one softmax.
  Frames meet only through the proxies. Both are dense products without a mask: T L (M + L) + M (M + T L) scores
  instead of the (M + T L)^2 of full attention.
  """
  patches = (query.shape[1] - num_proxies) // num_frames
  fused = implementation == "cudnn" and _fusible(query.shape[-1], patches, num_proxies + patches)
  axis = 1 if fused else 2  # of tokens

  def parts(tokens):
    """Proxies [.., M, ..] and patches [.., T, L, ..]."""
    tokens = tokens if fused else _by_heads(tokens)
    proxies, rest = jnp.split(tokens, [num_proxies], axis)
    return proxies, rest.reshape(*rest.shape[:axis], num_frames, patches, *rest.shape[axis + 1 :])

  def seen(tokens):
    """[.., T, M + L, ..]: what the patches of each frame may see."""
    proxies, rest = parts(tokens)
    shared = jnp.repeat(jnp.expand_dims(proxies, axis), num_frames, axis)
    return jnp.concatenate([shared, rest], axis + 1)

  by_frame = (_fused if fused else attend)(parts(query)[1], seen(key), seen(value))
  by_frame = by_frame.reshape(*by_frame.shape[:axis], -1, *by_frame.shape[axis + 2 :])
  # A few queries make few scores, which need no fusing.
  proxies = attend(_by_heads(query[:, :num_proxies]), _by_heads(key), _by_heads(value))
  return jnp.concatenate([_by_heads(proxies), by_frame if fused else _by_heads(by_frame)], axis=1)


def single_query_attention(
  query: Float[Array, "b 1 h d"], key: Float[Array, "b n h d"], value: Float[Array, "b n h d"], sees: Bool[Array, "b n"]
) -> Float[Array, "b 1 h d"]:
  """One token of each sample attends to those that it sees."""
  return _by_heads(attend(_by_heads(query), _by_heads(key), _by_heads(value), sees[:, None, None]))


def proxy_weights(
  query: Float[Array, "b n h d"], key: Float[Array, "b n h d"], *, num_proxies: int, num_frames: int
) -> Float[Array, "b m t l"]:
  """What the proxies look at: the share of each one's attention on each patch of each frame, averaged over heads.

  Under every pattern here a proxy attends to all tokens. The rest, up to 1, falls on the proxies themselves.
  """
  scores = jnp.einsum("bmhd,bkhd->bhmk", query[:, :num_proxies], key, preferred_element_type=jnp.float32)
  weights = jax.nn.softmax(scores, axis=-1)[..., num_proxies:]
  return einops.reduce(weights, "b h m (t l) -> b m t l", "mean", t=num_frames)
