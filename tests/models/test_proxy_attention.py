"""Proxy-guided attention against full attention under its mask."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numeric import assert_close

from clipvip_jax.models import attention, proxy_attention


@pytest.mark.slow
@pytest.mark.parametrize("added_proxies", [0, 1, 7])
@pytest.mark.parametrize("frames", [1, 3])
def test_proxy_guided_attention_equals_masked_full_attention(added_proxies, frames):
  proxies, patches = 1 + added_proxies, 5
  tokens = proxies + frames * patches
  frame = np.concatenate([np.full(proxies, -1), np.repeat(np.arange(frames), patches)])
  allowed = (frame[:, None] == frame) | (frame[:, None] == -1) | (frame == -1)
  query, key, value = jax.random.normal(jax.random.key(0), (3, 2, tokens, 4, 8))
  swap = attention.swap_heads
  masked = swap(attention.attend(swap(query), swap(key), swap(value), jnp.asarray(allowed)))
  ours = proxy_attention.proxy_guided(query, key, value, num_proxies=proxies, num_frames=frames)
  assert_close(ours, masked, 1e-6)


@pytest.mark.slow
def test_patches_of_other_frames_reach_a_patch_only_through_proxies():
  pattern = functools.partial(proxy_attention.proxy_guided, num_proxies=4, num_frames=4)
  tokens = jax.random.normal(jax.random.key(0), (1, 4 + 4 * 3, 2, 8))
  changed = tokens.at[:, -1].add(1.0)
  before, after = pattern(tokens, tokens, tokens), pattern(changed, changed, changed)
  np.testing.assert_array_equal(before[:, 4:-3], after[:, 4:-3])
  assert not np.allclose(before[:, :4], after[:, :4])


@pytest.mark.slow
def test_proxy_weights_equal_those_of_the_attention():
  query, key = jax.random.normal(jax.random.key(0), (2, 2, 2 + 3 * 4, 3, 8))
  identity = jnp.broadcast_to(jnp.eye(14)[:, None], (2, 14, 3, 14))  # as values, makes attention return its weights
  weights = attention.full(query, key, identity)
  assert_close(proxy_attention.proxy_weights(query, key, 2), weights[:, :2, :, 2:].mean(2), 1e-6)
