"""Proxy-guided attention: section 3.3 of the CLIP-ViP paper.

A clip is the sequence `[M proxies, frame 0's L patches, frame 1's L patches, ...]`. With one set of query, key and
value projections,

- a proxy attends to all M + T L tokens;
- a patch of frame t attends to the M proxies and the L patches of frame t, in one softmax over M + L.

Frames exchange information only through the proxies. The cost is `T L (M + L) + M (M + T L)` scores, against
`(M + T L)^2` of full attention. No mask is needed: both halves are dense products.

Letters: B batch, T frames, L patches per frame, M proxies, N = M + T L tokens, H heads, d head width.
"""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jaxtyping import Array, Float

from clipvip_jax.models.attention import (
  attend,
  default_device,
  fused_attend,
  has_fused_kernel,
  recompute_scores,
  swap_heads,
  without_pallas,
)


def proxy_guided(
  query: Float[Array, "b n h d"],
  key: Float[Array, "b n h d"],
  value: Float[Array, "b n h d"],
  *,
  num_proxies: int,
  num_frames: int,
  implementation: str = "xla",
  sharding: NamedSharding | None = None,
) -> Float[Array, "b n h d"]:
  """Computes proxy-guided attention over `[M proxies, frame 0's L patches, frame 1's, ...]`.

  Args:
    query: scaled by `d ** -0.5`.
    key: of all tokens.
    value: of all tokens.
    num_proxies: M.
    num_frames: T.
    implementation: "xla", "cudnn" or "pallas"; see `attention.resolve_implementation`.
    sharding: of [B, N, H d] over several devices, for "pallas", whose kernels the compiler cannot partition.
  """
  if implementation == "pallas":
    from clipvip_jax.models import proxy_kernel  # loads Pallas

    platform = default_device().platform
    kernel = proxy_kernel.ProxyKernel(platform, num_proxies, num_frames, query.shape[-1], sharding)
    tokens = [x.reshape(*x.shape[:2], -1) for x in (query, key, value)]
    if kernel.fits(tokens[0]):
      return proxy_kernel.fused_proxy_guided(kernel, *tokens).reshape(query.shape)
  implementation = without_pallas(implementation, query.dtype)
  num_patches = (query.shape[1] - num_proxies) // num_frames
  fused = implementation == "cudnn" and has_fused_kernel(query.shape[-1], num_patches, num_proxies + num_patches)
  pattern = functools.partial(_attend_frames_and_proxies, num_proxies=num_proxies, num_frames=num_frames, fused=fused)
  return (pattern if fused else recompute_scores(pattern))(query, key, value)


def _attend_frames_and_proxies(
  query: Array, key: Array, value: Array, *, num_proxies: int, num_frames: int, fused: bool
) -> Float[Array, "b n h d"]:
  """Computes both halves of the pattern: patches attend within their frame, by cuDNN if `fused`, and proxies to all."""
  num_patches = (query.shape[1] - num_proxies) // num_frames
  axis = 1 if fused else 2  # of tokens: cuDNN takes [B, N, H, d], XLA [B, H, N, d]

  def split_frames(x):
    """Splits all tokens into proxies [.., M, ..] and patches [.., T, L, ..]."""
    x = x if fused else swap_heads(x)
    proxies, patches = jnp.split(x, [num_proxies], axis)
    return proxies, patches.reshape(*patches.shape[:axis], num_frames, num_patches, *patches.shape[axis + 1 :])

  def frame_context(x):
    """Returns the proxies and the frame's patches, for each frame [.., T, M + L, ..]."""
    proxies, patches = split_frames(x)
    proxies = jnp.repeat(jnp.expand_dims(proxies, axis), num_frames, axis)
    return jnp.concatenate([proxies, patches], axis + 1)

  patches = (fused_attend if fused else attend)(split_frames(query)[1], frame_context(key), frame_context(value))
  patches = patches.reshape(*patches.shape[:axis], -1, *patches.shape[axis + 2 :])
  # A few queries make few scores, which gain nothing from a fused kernel.
  proxies = attend(swap_heads(query[:, :num_proxies]), swap_heads(key), swap_heads(value))
  return jnp.concatenate([swap_heads(proxies), patches if fused else swap_heads(patches)], axis=1)


def proxy_weights(
  query: Float[Array, "b n h d"], key: Float[Array, "b n h d"], num_proxies: int
) -> Float[Array, "b m n-m"]:
  """Returns attention weights of each proxy on every patch, float32, averaged over heads.

  Proxies attend to all tokens under proxy-guided and full attention alike. A row sums to at most 1; the rest of the
  weight falls on the proxies.
  """
  scores = jnp.einsum("bmhd,bkhd->bhmk", query[:, :num_proxies], key, preferred_element_type=jnp.float32)
  return jax.nn.softmax(scores, axis=-1)[..., num_proxies:].mean(axis=1)
