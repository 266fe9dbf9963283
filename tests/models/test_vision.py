"""Vision tower: time embedding, patch dropout, sown attention weights."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from numeric import assert_close

from clipvip_jax.models import clip_vip
from clipvip_jax.models.transformer import INTERMEDIATES, PROXY_WEIGHTS
from clipvip_jax.models.vision import PATCH_DROPOUT, drop_patches, resize_time


@pytest.fixture(scope="module")
def video():
  return np.random.default_rng(0).normal(size=(2, 3, 32, 32, 3)).astype(np.float32)


@functools.cache
def variant(temporal="proxies", **overrides):
  """(model, parameters), with a time embedding that is not zero."""
  model = tiny.model(temporal=temporal, embedding_init="scratch", **overrides)
  return model, tiny.random_params(model)


def embed(model, params, video, **kwargs):
  return jax.jit(lambda p, x: model.apply({"params": p}, x, method="embed_video", **kwargs))(params, video)


@pytest.mark.parametrize("num_frames", [1, 3, 4, 7, 12])
def test_time_embedding_is_interpolated_with_half_pixel_centres(num_frames):
  time = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
  position = np.clip((np.arange(num_frames) + 0.5) * 4 / num_frames - 0.5, 0, 3)
  expected = np.stack([np.interp(position, np.arange(4), column) for column in time.T], axis=1)
  assert_close(resize_time(jnp.asarray(time), num_frames), expected, 1e-6)


def test_patch_dropout_keeps_at_least_one_patch():
  patches = jnp.ones((1, 2, 4, 3))
  assert drop_patches(patches, 0.5, jax.random.key(0)).shape == (1, 2, 2, 3)
  assert drop_patches(patches, 0.99, jax.random.key(0)).shape == (1, 2, 1, 3)


def test_patch_dropout_draws_a_subset_per_frame():
  patches = jnp.broadcast_to(jnp.arange(16.0)[:, None], (2, 3, 16, 1))
  kept = np.asarray(drop_patches(patches, 0.5, jax.random.key(1)))[..., 0]
  subsets = {tuple(sorted(frame)) for clip in kept for frame in clip}
  assert len(subsets) == 6
  assert all(len(set(subset)) == 8 for subset in subsets)


@pytest.mark.slow
def test_patch_dropout_applies_only_with_its_rng(video):
  model, params = variant(patch_dropout=0.5)
  features = embed(*variant()[:1], params, video)
  np.testing.assert_array_equal(embed(model, params, video), features)
  first, again, other = (embed(model, params, video, rngs={PATCH_DROPOUT: jax.random.key(i)}) for i in (1, 1, 2))
  np.testing.assert_array_equal(first, again)
  assert np.abs(first - other).max() > 1e-4 and np.abs(first - features).max() > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("temporal", ["proxies", "full", "sequence", "mean"])
def test_proxy_attention_weights_have_the_shape_and_range_of_shares(video, temporal):
  model, params = variant(temporal)
  weights = clip_vip.proxy_attention_weights(model, params, video)
  assert weights.shape == (2, 4, 3, 16) and weights.dtype == jnp.float32
  sums = weights.sum((2, 3))
  assert np.all(weights >= 0) and np.all(sums <= 1 + 1e-6) and np.all(sums > 0.1)


@pytest.mark.parametrize("temporal", ["sequence", "mean"])
def test_proxy_attention_weights_of_separate_frames_are_divided_by_their_number(video, temporal):
  model, params = variant(temporal)
  weights = clip_vip.proxy_attention_weights(model, params, video)
  first = clip_vip.proxy_attention_weights(model, params, video[:, :1])
  assert_close(3 * weights[:, :, :1], first, 1e-5)


@pytest.mark.parametrize("remat", [False, True])
def test_sowing_attention_weights_does_not_change_the_features(video, remat):
  model, params = variant(remat=remat)
  features, variables = jax.jit(
    lambda p: model.apply({"params": p}, video, method="embed_video", mutable=[INTERMEDIATES])
  )(params)
  assert_close(features, embed(model, params, video), 1e-5)
  blocks = variables[INTERMEDIATES]["vision"]["transformer"]
  for i in range(model.vision.layers):
    (weights,) = blocks[f"block_{i}"]["attention"][PROXY_WEIGHTS]
    assert weights.shape == (2, 4, 3 * 16)


def test_dropped_patches_have_no_attention_weights(video):
  model, params = variant(patch_dropout=0.5)
  rngs = {PATCH_DROPOUT: jax.random.key(1)}
  _, variables = model.apply({"params": params}, video, method="embed_video", rngs=rngs, mutable=[INTERMEDIATES])
  (weights,) = variables[INTERMEDIATES]["vision"]["transformer"]["block_1"]["attention"][PROXY_WEIGHTS]
  assert weights.shape == (2, 4, 3 * 8)
