"""Attention functions and the choice between XLA and cuDNN."""

import functools

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


def test_auto_resolves_to_xla_without_a_gpu():
  assert attention.resolve_implementation("auto", jnp.bfloat16) == "xla"
  assert attention.resolve_implementation("xla", jnp.float32) == "xla"


@pytest.mark.slow
def test_cudnn_without_a_gpu_is_rejected():
  model = tiny.model(attention="cudnn")
  with pytest.raises(UserError, match=r"model\.attention=cudnn needs .*float32 on cpu; use model\.attention=auto"):
    model.init(jax.random.key(0), np.zeros((1, 1, 32, 32, 3)), np.zeros((1, 4), int))


def test_unknown_implementation_is_rejected():
  with pytest.raises(UserError, match=r"model\.attention='flash' is unknown; allowed: auto, xla, cudnn"):
    clip_vip.from_config(tiny.config(attention="flash"))
