"""The paper's temporal baselines."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from numeric import assert_close

from clipvip_jax.models.attention import full
from clipvip_jax.models.temporal import l2_normalize, mean_pooling
from clipvip_jax.models.transformer import Transformer


@pytest.fixture(scope="module")
def video():
  return np.random.default_rng(0).normal(size=(2, 3, 32, 32, 3)).astype(np.float32)


def vision(model, video):
  return model.vision(video)


@functools.cache
def variant(temporal, **overrides):
  """(model, parameters), with a time embedding that is not zero."""
  model = tiny.model(temporal=temporal, embedding_init="scratch", **overrides)
  return model, tiny.random_params(model)


def embed(model, params, video):
  return jax.jit(lambda p, x: model.apply({"params": p}, x, method="embed_video"))(params, video)


@pytest.mark.slow
def test_full_and_proxy_guided_attention_agree_only_on_one_frame(video):
  model, params = variant("full")
  guided = tiny.model(temporal="proxies", embedding_init="scratch")
  image = video[:, :1]
  assert_close(embed(model, params, image), embed(guided, params, image), 1e-6)
  assert np.abs(embed(model, params, video) - embed(guided, params, video)).max() > 1e-3


@pytest.mark.slow
def test_sequence_transformer_adds_its_output_to_the_frame_features(video):
  model, params = variant("sequence")
  frames = jnp.stack([model.apply({"params": params}, video[:, t : t + 1], method=vision) for t in range(3)], axis=1)
  sequence = params["sequence"]
  assert sequence["position_embedding"].shape == (16, 32) and len(sequence["transformer"]) == 4
  blocks = Transformer(4, 4, 96, "quick_gelu")
  mixed = blocks.apply({"params": sequence["transformer"]}, frames + sequence["position_embedding"][:3], full)
  assert_close(embed(model, params, video), l2_normalize(mean_pooling(frames + mixed)), 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("temporal", "sees_order"), [("mean", False), ("sequence", True), ("full", True)])
def test_features_depend_on_frame_order_only_with_attention_across_frames(video, temporal, sees_order):
  model, params = variant(temporal, added_proxies=0, time_positions=4 if temporal == "full" else 0)
  difference = np.abs(embed(model, params, video) - embed(model, params, video[:, ::-1])).max()
  assert (difference > 1e-4) == sees_order


@pytest.mark.slow
def test_clip_longer_than_the_sequence_transformer_is_rejected():
  model, params = variant("sequence")
  with pytest.raises(ValueError, match="clip of 17 frames exceeds the sequence transformer's 16 positions"):
    model.apply({"params": params}, np.zeros((1, 17, 32, 32, 3), np.float32), method="embed_video")
