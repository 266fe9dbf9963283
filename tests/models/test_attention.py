"""Attention functions and the choice between XLA and cuDNN."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from numeric import assert_close

from clipvip_jax.models import attention, clip_vip, proxy_attention
from clipvip_jax.utils.errors import UserError


def softmax_attention(query, key, value, allowed):
  """Oracle in NumPy, float64: [B, N, H, d] with a mask [N, N]."""
  query, key, value = (np.asarray(x, np.float64) for x in (query, key, value))
  scores = np.einsum("bqhd,bkhd->bhqk", query, key)
  weights = np.where(allowed, np.exp(scores), 0.0)
  return np.einsum("bhqk,bkhd->bqhd", weights / weights.sum(-1, keepdims=True), value)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "allowed"), [("full", np.ones((6, 6))), ("causal", np.tri(6))])
def test_pattern_equals_softmax_attention_under_its_mask(name, allowed):
  inputs = jax.random.normal(jax.random.key(0), (3, 2, 6, 4, 8))
  assert_close(getattr(attention, name)(*inputs), softmax_attention(*inputs, allowed.astype(bool)), 1e-6)


def test_single_query_attention_equals_one_row_of_masked_attention():
  query, key, value = jax.random.normal(jax.random.key(0), (3, 2, 6, 4, 8))
  mask = np.arange(6) <= np.array([[3], [5]])
  attended = attention.single_query_attention(query[:, 3:4], key, value, jnp.asarray(mask))
  for i in range(2):
    rows = softmax_attention(query[i : i + 1], key[i : i + 1], value[i : i + 1], mask[i])
    assert_close(attended[i : i + 1], rows[:, 3:4], 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
  ("pattern", "patches", "proxies", "head_width", "fused"),
  [
    (attention.causal, 6, 0, 8, True),
    (attention.causal, 5, 0, 8, False),  # cuDNN needs an even number of queries
    (attention.full, 6, 0, 8, True),
    (attention.full, 5, 0, 8, False),
    (proxy_attention.proxy_guided, 6, 2, 8, True),
    (proxy_attention.proxy_guided, 5, 1, 8, False),
    (proxy_attention.proxy_guided, 6, 1, 8, False),  # and an even number of keys
    (proxy_attention.proxy_guided, 6, 2, 12, False),  # and a head width that is a multiple of 8
  ],
)
def test_fused_attention_equals_xla_attention_where_cudnn_has_a_kernel(
  monkeypatch, pattern, patches, proxies, head_width, fused
):
  """cuDNN needs a GPU, so JAX's own implementation of the same call replaces it."""
  implementations = []

  def on_xla(query, key, value, *, scale, is_causal, implementation):
    implementations.append(implementation)
    return dot_product_attention(query, key, value, scale=scale, is_causal=is_causal, implementation="xla")

  dot_product_attention = jax.nn.dot_product_attention
  monkeypatch.setattr(jax.nn, "dot_product_attention", on_xla)
  sizes = {"num_proxies": proxies, "num_frames": 3} if proxies else {}
  num_tokens = proxies + 3 * patches if sizes else patches
  inputs = jax.random.normal(jax.random.key(0), (3, 2, num_tokens, 4, head_width))
  apply = functools.partial(pattern, *inputs, **sizes)
  assert_close(apply(implementation="cudnn"), apply(implementation="xla"), 1e-6)
  assert implementations == (["cudnn"] if fused else [])


@pytest.mark.parametrize(
  "pattern",
  [attention.full, attention.causal, functools.partial(proxy_attention.proxy_guided, num_proxies=2, num_frames=3)],
  ids=["full", "causal", "proxy_guided"],
)
def test_gradients_that_compute_scores_again_are_equal_and_keep_none(monkeypatch, pattern):
  tokens = tuple(jax.random.normal(jax.random.key(0), (3, 2, 2 + 3 * 5, 4, 8)))
  y, vjp = jax.vjp(jax.jit(lambda *tokens: pattern(*tokens)), *tokens)
  monkeypatch.setattr(attention, "default_device", lambda: types.SimpleNamespace(device_kind="TPU v5 lite"))
  again_y, again_vjp = jax.vjp(jax.jit(lambda *tokens: pattern(*tokens)), *tokens)
  for ours, expected in zip((again_y, *again_vjp(y)), (y, *vjp(y)), strict=True):
    assert_close(ours, expected, 1e-6)
  sizes = [sum(x.size for x in jax.tree.leaves(residuals)) for residuals in (again_vjp, vjp)]
  assert sizes[0] <= 3 * tokens[0].size < sizes[1]


def test_auto_resolves_to_xla_without_a_gpu():
  assert attention.resolve_implementation("auto", jnp.bfloat16) == "xla"
  assert attention.resolve_implementation("xla", jnp.float32) == "xla"


@pytest.mark.slow
def test_cudnn_without_a_gpu_is_rejected():
  model = tiny.model(attention="cudnn")
  with pytest.raises(UserError, match=r"model\.attention=cudnn needs .*float32 on cpu; use model\.attention=auto"):
    model.init(jax.random.key(0), np.zeros((1, 1, 32, 32, 3)), np.zeros((1, 4), int))


@pytest.mark.parametrize(
  ("implementation", "platform", "version", "capability", "resolved"),
  [
    ("auto", "gpu", "cuda 12", "8.0", "cudnn"),
    ("auto", "gpu", "cuda 12", "7.5", "xla"),
    ("auto", "gpu", "rocm 7", "gfx942", "xla"),
    ("auto", "tpu", "", None, "xla"),
    ("pallas", "gpu", "cuda 12", "9.0", "pallas"),
    ("pallas", "gpu", "rocm 7", "gfx942", "pallas"),
    ("pallas", "gpu", "cuda 12", "7.5", None),
    ("pallas", "gpu", "cuda 12", "7.0", None),
    ("pallas", "cpu", "", None, None),
    ("cudnn", "gpu", "cuda 12", "7.5", None),
    ("cudnn", "gpu", "rocm 7", "gfx942", None),
    ("cudnn", "tpu", "", None, None),
  ],
)
def test_kernels_that_a_device_lacks_are_refused(monkeypatch, implementation, platform, version, capability, resolved):
  client = types.SimpleNamespace(platform_version=version)
  device = types.SimpleNamespace(platform=platform, client=client, compute_capability=capability, device_kind="chip")
  monkeypatch.setattr(attention, "default_device", lambda: device)
  if resolved:
    assert attention.resolve_implementation(implementation, jnp.bfloat16) == resolved
    return
  message = (
    rf"model\.attention={implementation} needs .*; this run computes in bfloat16 on chip; use model\.attention=auto"
  )
  with pytest.raises(UserError, match=message):
    attention.resolve_implementation(implementation, jnp.bfloat16)


def test_unknown_implementation_is_rejected():
  with pytest.raises(UserError, match=r"model\.attention='flash' is unknown; allowed: auto, xla, cudnn"):
    clip_vip.from_config(tiny.config(attention="flash"))


HEAD_WIDTHS = (64, 80, 104)  # of B/32 to L/14, of H/14 and of bigG/14


@pytest.mark.parametrize("width", HEAD_WIDTHS)
def test_every_path_equals_softmax_attention_at_the_sizes_of_large_models(width):
  """One frame of 256 patches and CLIP's class token."""
  tokens = 257
  query, key, value = np.random.default_rng(0).normal(size=(3, 1, tokens, 2, width)).astype(np.float32)
  query *= width**-0.5
  everything = np.ones((tokens, tokens), bool)
  expected = softmax_attention(query, key, value, everything)
  assert_close(attention.full(query, key, value), expected, 1e-5)
  causal = softmax_attention(query, key, value, np.tri(tokens, dtype=bool))
  assert_close(attention.causal(query, key, value), causal, 1e-5)
  single = attention.single_query_attention(query[:, :1], key, value, jnp.ones((1, tokens), bool))
  assert_close(single, expected[:, :1], 1e-5)
  ours = proxy_attention.proxy_guided(query, key, value, num_proxies=1, num_frames=1)
  assert_close(ours, expected, 1e-5)  # one frame: every token attends to every token


@pytest.mark.parametrize("width", HEAD_WIDTHS)
def test_proxy_guided_attention_of_large_models_equals_its_mask(width):
  """Two frames of 256 patches of 14 x 14 pixels, and four proxies."""
  tokens, proxies = 4 + 2 * 256, 4
  query, key, value = np.random.default_rng(1).normal(size=(3, 1, tokens, 1, width)).astype(np.float32)
  query *= width**-0.5
  frame = np.concatenate([np.full(proxies, -1), np.repeat([0, 1], 256)])
  allowed = (frame[:, None] == frame) | (frame[:, None] == -1) | (frame == -1)
  ours = proxy_attention.proxy_guided(query, key, value, num_proxies=proxies, num_frames=2)
  assert_close(ours, softmax_attention(query, key, value, allowed), 1e-5)
  weights = proxy_attention.proxy_weights(query, key, proxies)
  assert weights.shape == (1, proxies, 2 * 256)


def test_cudnn_has_kernels_for_the_heads_and_frames_of_large_models():
  assert all(attention.has_fused_kernel(width, 256, 260) for width in HEAD_WIDTHS)
  assert all(attention.has_fused_kernel(width, 576, 580) for width in HEAD_WIDTHS)  # 336 x 336 pixels
  assert not attention.has_fused_kernel(64, 257)  # mean pooling: one class token per frame
