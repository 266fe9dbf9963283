"""The paper's temporal baselines, what the proxies look at, and what saves memory or time in training."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from numeric import assert_close

from clipvip_jax.models import proxy_attention
from clipvip_jax.models.temporal import l2_normalize, mean_pooling
from clipvip_jax.models.transformer import Transformer
from clipvip_jax.models.vision import PATCH_DROPOUT


@pytest.fixture(scope="module")
def video():
  return np.random.default_rng(0).normal(size=(2, 3, 32, 32, 3)).astype(np.float32)


@functools.cache
def variant(temporal, **overrides):
  """(model, parameters); time is not at zero, where it would hide its effect."""
  net = tiny.model(temporal=temporal, embedding_init="scratch", **overrides)
  return net, tiny.random_params(net)


def embed(net, params, video, **kwargs):
  return jax.jit(lambda p, x: net.apply({"params": p}, x, method="embed_video", **kwargs))(params, video)


def test_full_attention_of_one_frame_is_proxy_guided_and_of_several_is_not(video):
  net, params = variant("full")
  guided = tiny.model(temporal="proxies", embedding_init="scratch")
  one = video[:, :1]
  assert_close(embed(net, params, one), embed(guided, params, one), 1e-6)
  assert np.abs(embed(net, params, video) - embed(guided, params, video)).max() > 1e-3


def test_a_sequence_transformer_adds_what_its_blocks_make_of_the_frames(video):
  net, params = variant("sequence")
  frames = jnp.stack([net.apply({"params": params}, video[:, t : t + 1], method=vision) for t in range(3)], axis=1)
  own = params["sequence"]
  assert own["position_embedding"].shape == (16, 32) and len(own["transformer"]) == 4
  blocks = Transformer(4, 4, 96, "quick_gelu")
  mixed = blocks.apply({"params": own["transformer"]}, frames + own["position_embedding"][:3], proxy_attention.full)
  assert_close(embed(net, params, video), l2_normalize(mean_pooling(frames + mixed)), 1e-5)


def vision(model, video):
  return model.vision(video)


@pytest.mark.parametrize(("temporal", "sees_order"), [("mean", False), ("sequence", True), ("full", True)])
def test_which_baselines_see_the_order_of_frames(video, temporal, sees_order):
  net, params = variant(temporal, added_proxies=0, time_positions=4 if temporal == "full" else 0)
  difference = np.abs(embed(net, params, video) - embed(net, params, video[:, ::-1])).max()
  assert (difference > 1e-4) == sees_order


@pytest.mark.parametrize("temporal", ["proxies", "full", "sequence", "mean"])
def test_what_the_proxies_look_at(video, temporal):
  net, params = variant(temporal)
  shares = net.apply({"params": params}, video, method="proxy_attention")
  assert shares.shape == (2, 4, 3, 16) and shares.dtype == jnp.float32
  assert np.all(shares >= 0) and np.all(shares.sum((2, 3)) <= 1 + 1e-6) and np.all(shares.sum((2, 3)) > 0.1)
  if temporal in ("sequence", "mean"):
    first = net.apply({"params": params}, video[:, :1], method="proxy_attention")
    assert_close(3 * shares[:, :, :1], first, 1e-5)


def test_shares_of_attention_are_those_that_attention_uses():
  query, key = jax.random.normal(jax.random.key(0), (2, 2, 2 + 3 * 4, 3, 8))
  identity = jnp.broadcast_to(jnp.eye(14)[:, None], (2, 14, 3, 14))  # as values: every query gives its own weights
  weights = proxy_attention.full(query, key, identity)
  expected = weights[:, :2, :, 2:].mean(2).reshape(2, 2, 3, 4)
  assert_close(proxy_attention.proxy_weights(query, key, num_proxies=2, num_frames=3), expected, 1e-6)


def test_patches_are_left_out_in_training_alone(video):
  net, params = variant("proxies", patch_dropout=0.5)
  plain = tiny.model(temporal="proxies", embedding_init="scratch")
  whole = embed(plain, params, video)
  np.testing.assert_array_equal(embed(net, params, video), whole)
  first, again, other = (embed(net, params, video, rngs={PATCH_DROPOUT: jax.random.key(i)}) for i in (1, 1, 2))
  np.testing.assert_array_equal(first, again)
  assert np.abs(first - other).max() > 1e-4 and np.abs(first - whole).max() > 1e-4
  shares = net.apply({"params": params}, video, method="proxy_attention", rngs={PATCH_DROPOUT: jax.random.key(1)})
  assert shares.shape == (2, 4, 3, 8)


def test_frames_lose_patches_of_their_own():
  net, params = variant("proxies", patch_dropout=0.5)
  still = np.repeat(np.random.default_rng(1).normal(size=(1, 1, 32, 32, 3)).astype(np.float32), 3, axis=1)
  still_params = {**params, "vision": {**params["vision"], "time_embedding": jnp.zeros((4, 64))}}
  shares = net.apply({"params": still_params}, still, method="proxy_attention", rngs={PATCH_DROPOUT: jax.random.key(1)})
  assert not np.allclose(np.sort(shares[0, 0, 0]), np.sort(shares[0, 0, 1]), atol=1e-6)


def test_rematerialisation_changes_neither_features_nor_gradients(video):
  net, params = variant("proxies")
  checkpointed = tiny.model(temporal="proxies", embedding_init="scratch", remat=True)

  def objective(net, params):
    return (net.apply({"params": params}, video, method="embed_video") ** 2 @ jnp.arange(32.0)).sum()

  value, grads = jax.jit(jax.value_and_grad(lambda p: objective(net, p)))(params)
  expected, expected_grads = jax.jit(jax.value_and_grad(lambda p: objective(checkpointed, p)))(params)
  assert_close(value, expected, 1e-6)
  jax.tree.map(functools.partial(assert_close, relative=1e-4), grads["vision"], expected_grads["vision"])
  repeated = jax.make_jaxpr(jax.grad(lambda p: objective(checkpointed, p)))(params)
  assert "remat" in str(repeated) or "checkpoint" in str(repeated)
