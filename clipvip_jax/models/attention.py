"""Softmax attention, and the attention patterns of plain CLIP.

An attention pattern decides which token attends to which. It is a pure function of queries, keys and values
[B, N, H, d], the queries already scaled by `d ** -0.5`, and returns [B, N, H, d]. CLIP-ViP's own pattern is in
`proxy_attention.py`.

Letters: B batch, N tokens, Q queries, K keys, H heads, d head width.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from clipvip_jax.utils.errors import UserError

AttentionPattern = Callable[[Array, Array, Array], Array]

# "xla": matrix products around a float32 softmax. "cudnn": fused kernels for NVIDIA GPUs, which keep scores out of
# memory; sizes without a kernel fall back to XLA. "auto": cuDNN where available (docs/performance.md). "pallas": this
# project's kernels of proxy-guided attention for TPUs and GPUs (proxy_kernel.py); everything else as by "auto".
IMPLEMENTATIONS = ("auto", "xla", "cudnn", "pallas")
TPU_KERNELS, GPU_KERNELS = frozenset({"pallas"}), frozenset({"cudnn", "pallas"})
_MIN_COMPUTE_CAPABILITY = 8.0  # of NVIDIA's GPUs for both: Ampere
_NEEDS = {
  "cudnn": f"model.dtype=bfloat16 and an NVIDIA GPU of compute capability {_MIN_COMPUTE_CAPABILITY} or higher",
  "pallas": f"a TPU or a GPU, NVIDIA's of compute capability {_MIN_COMPUTE_CAPABILITY} or higher",
}
_MAX_FUSED_HEAD_WIDTH = 128
# Chips (v5e and v6e) for which recomputed scores stay on the chip: compiled for v5p, they are written to memory again.
_RECOMPUTES_SCORES = ("TPU v5 lite", "TPU v6 lite")


def default_device() -> jax.Device:
  """Returns the device that a program is traced for: that of `jax.default_device`, or the first one."""
  device = jax.config.jax_default_device
  return device if isinstance(device, jax.Device) else jax.devices()[0]


def _kernels(device: jax.Device) -> frozenset[str]:
  """Returns those of IMPLEMENTATIONS that a device has in addition to XLA."""
  if device.platform != "gpu":
    return TPU_KERNELS if device.platform == "tpu" else frozenset()
  if "cuda" not in device.client.platform_version:
    return frozenset({"pallas"})
  return GPU_KERNELS if float(device.compute_capability) >= _MIN_COMPUTE_CAPABILITY else frozenset()


def check_implementation(implementation: str, dtype: DTypeLike, kernels: frozenset[str], device_kind: str) -> None:
  """Checks that a device computes attention by one of IMPLEMENTATIONS.

  Args:
    implementation: `model.attention`.
    dtype: of the computation.
    kernels: TPU_KERNELS, GPU_KERNELS, or a part of them.
    device_kind: name of the device.

  Raises:
    UserError: "cudnn" or "pallas" is requested but not available.
  """
  is_available = implementation in kernels and (implementation != "cudnn" or dtype == jnp.bfloat16)
  if implementation in _NEEDS and not is_available:
    raise UserError(
      f"model.attention={implementation} needs {_NEEDS[implementation]}; this run computes in {jnp.dtype(dtype).name}"
      f" on {device_kind}; use model.attention=auto"
    )


def resolve_implementation(implementation: str, dtype: DTypeLike) -> str:
  """Resolves one of IMPLEMENTATIONS to "xla", "cudnn" or "pallas" on the default device.

  Raises:
    UserError: as `check_implementation`.
  """
  device = default_device()
  check_implementation(implementation, dtype, _kernels(device), device.device_kind)
  if implementation != "auto":
    return implementation
  return "cudnn" if "cudnn" in _kernels(device) and dtype == jnp.bfloat16 else "xla"


def without_pallas(implementation: str, dtype: DTypeLike) -> str:
  """Returns a resolved implementation, or that of "auto" in place of "pallas", for what its kernels do not compute."""
  return resolve_implementation("auto", dtype) if implementation == "pallas" else implementation


def has_fused_kernel(head_width: int, *lengths: int) -> bool:
  """Returns whether cuDNN has forward and backward kernels for a head width and these numbers of queries and keys."""
  return not any(length % 2 for length in lengths) and not head_width % 8 and head_width <= _MAX_FUSED_HEAD_WIDTH


def attend(
  query: Float[Array, "*b q d"],
  key: Float[Array, "*b k d"],
  value: Float[Array, "*b k d"],
  mask: Bool[Array, "*#b #q k"] | None = None,
) -> Float[Array, "*b q d"]:
  """Computes softmax attention of every query to every key, or to those where `mask` is true. The softmax is float32.

  Queries are already scaled by `d ** -0.5`.
  """
  scores = jnp.einsum("...qd,...kd->...qk", query, key, preferred_element_type=jnp.float32)
  if mask is not None:
    scores = jnp.where(mask, scores, jnp.finfo(jnp.float32).min)
  weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
  return jnp.einsum("...qk,...kd->...qd", weights, value)


def fused_attend(
  query: Float[Array, "*b q h d"],
  key: Float[Array, "*b k h d"],
  value: Float[Array, "*b k h d"],
  *,
  is_causal: bool = False,
) -> Float[Array, "*b q h d"]:
  """Computes `attend` of all heads by cuDNN, whose softmax is float32 as well. Heads are the last axis but one."""
  batched = (x.reshape(-1, *x.shape[-3:]) for x in (query, key, value))
  attended = jax.nn.dot_product_attention(*batched, scale=1.0, is_causal=is_causal, implementation="cudnn")
  return attended.reshape(query.shape)


def recompute_scores(pattern: AttentionPattern) -> AttentionPattern:
  """Returns a pattern whose backward pass, on some TPUs, computes the scores again instead of reading them from memory.

  docs/performance.md says what either costs.
  """
  return jax.checkpoint(pattern) if default_device().device_kind in _RECOMPUTES_SCORES else pattern


def swap_heads(x: Array) -> Array:
  """Swaps [B, N, H, d] <-> [B, H, N, d]; XLA's products are fastest in the latter, on CPUs and GPUs alike."""
  return jnp.swapaxes(x, 1, 2)


def causal(
  query: Float[Array, "b n h d"],
  key: Float[Array, "b n h d"],
  value: Float[Array, "b n h d"],
  *,
  implementation: str = "xla",
) -> Float[Array, "b n h d"]:
  """Computes causal attention, as in CLIP's text tower: a token attends to itself and to earlier tokens."""
  num_tokens = query.shape[1]
  implementation = without_pallas(implementation, query.dtype)
  if implementation == "cudnn" and has_fused_kernel(query.shape[-1], num_tokens):
    return fused_attend(query, key, value, is_causal=True)

  def attend_earlier(query, key, value):
    mask = jnp.tril(jnp.ones((num_tokens, num_tokens), bool))
    return swap_heads(attend(swap_heads(query), swap_heads(key), swap_heads(value), mask))

  return recompute_scores(attend_earlier)(query, key, value)


def full(
  query: Float[Array, "b n h d"],
  key: Float[Array, "b n h d"],
  value: Float[Array, "b n h d"],
  *,
  implementation: str = "xla",
) -> Float[Array, "b n h d"]:
  """Computes full attention: every token attends to every token. Over a clip this is full space-time attention."""
  implementation = without_pallas(implementation, query.dtype)
  if implementation == "cudnn" and has_fused_kernel(query.shape[-1], query.shape[1]):
    return fused_attend(query, key, value)
  attend_all = recompute_scores(lambda *tokens: swap_heads(attend(*map(swap_heads, tokens))))
  return attend_all(query, key, value)


def single_query_attention(
  query: Float[Array, "b 1 h d"], key: Float[Array, "b n h d"], value: Float[Array, "b n h d"], mask: Bool[Array, "b n"]
) -> Float[Array, "b 1 h d"]:
  """Computes attention of one query per sample to the keys where `mask` is true."""
  return swap_heads(attend(swap_heads(query), swap_heads(key), swap_heads(value), mask[:, None, None]))
