"""CLIP-ViP against the public implementation's numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import linen as nn
from numeric import assert_close

from clipvip_jax.models import clip_vip
from clipvip_jax.models.transformer import Block
from clipvip_jax.utils.errors import UserError


@pytest.mark.slow
@pytest.mark.parametrize("frames", [1, 2, 4, 6, 12])
def test_features_equal_the_reference(golden, frames):
  data = golden("forward.npz")
  video = tiny.channels_last(data[f"T{frames}/video"])
  apply = jax.jit(tiny.model().apply)
  video_features, text_features, _ = apply({"params": tiny.params(golden)}, video, data[f"T{frames}/input_ids"])
  assert_close(video_features, data[f"T{frames}/video_features"])
  assert_close(text_features, data[f"T{frames}/text_features"])


@pytest.mark.slow
@pytest.mark.parametrize("tower", ["vision", "text"])
def test_hidden_states_equal_the_reference(golden, tower):
  data = golden("forward.npz")
  hidden = []  # the input of each block, and the output of the last

  def record(call, args, kwargs, context):
    result = call(*args, **kwargs)
    if isinstance(context.module, Block) and tower in context.module.path:
      hidden[-1:] = [args[0], result]
    return result

  with nn.intercept_methods(record), jax.disable_jit():  # under jit only one block is traced
    tiny.model().apply({"params": tiny.params(golden)}, tiny.channels_last(data["T4/video"]), data["T4/input_ids"])
  # The reference masks padding; here it is computed and never read.
  kept = data["T4/attention_mask"].astype(bool) if tower == "text" else np.s_[:]
  assert len(hidden) == 3
  for i, states in enumerate(hidden[:-1]):
    assert_close(states[kept], data[f"T4/{tower}_hidden_{i}"][kept], name=f"hidden states {i}")
  # The last block computes only the token that the feature is read from.
  readout = data["T4/input_ids"].argmax(1) if tower == "text" else np.zeros(len(hidden[-1]), int)
  last = data[f"T4/{tower}_hidden_2"][np.arange(len(readout)), readout]
  assert_close(hidden[-1][:, 0], last, name="output of the last block")


@pytest.mark.slow
def test_plain_clip_with_mean_pooling_equals_the_reference(golden):
  data = golden("meanpool.npz")
  model = tiny.model(added_proxies=0, time_positions=0, temporal="mean")
  params = tiny.params(golden, "clip_tiny.safetensors")
  video, text, _ = model.apply({"params": params}, tiny.channels_last(data["video"]), data["input_ids"])
  assert_close(video, data["video_features"])
  assert_close(text, data["text_features"])


@pytest.mark.slow
def test_mean_pooling_of_one_frame_equals_plain_clip(golden):
  video = tiny.channels_last(golden("meanpool.npz")["video"])[:, :1]
  params = {"params": tiny.params(golden, "clip_tiny.safetensors")}
  features = [
    tiny.model(added_proxies=0, time_positions=0, temporal=temporal).apply(params, video, method="embed_video")
    for temporal in ("proxies", "mean")
  ]
  assert_close(*features)


@pytest.mark.slow
def test_bfloat16_features_are_close_and_parameters_stay_float32(golden):
  data = golden("forward.npz")
  model = tiny.model(dtype="bfloat16")
  assert {str(x.dtype) for x in jax.tree.leaves(tiny.random_params(model))} == {"float32"}
  params, video = {"params": tiny.params(golden)}, tiny.channels_last(data["T4/video"])
  features = model.apply(params, video, method="embed_video")
  assert features.dtype == jnp.float32
  assert_close(features, data["T4/video_features"], 0.05)
  exact = tiny.model().apply(params, video, method="embed_video")
  assert np.abs(features - exact).max() > 1e-6, "bfloat16 was not used"


def test_exact_gelu_differs_from_quick_gelu(golden):
  data = golden("forward.npz")
  params, video = {"params": tiny.params(golden)}, tiny.channels_last(data["T4/video"])
  exact = tiny.model(activation="gelu").apply(params, video, method="embed_video")
  assert np.abs(exact - data["T4/video_features"]).max() > 1e-4


@pytest.mark.parametrize(
  ("overrides", "message"),
  [
    ({"patch_size": 7}, r"model\.image_size=32 is not divisible by model\.patch_size=7; use a multiple of 7$"),
    ({"temporal": "maen"}, r"model\.temporal='maen' is unknown; allowed: proxies, full, sequence, mean"),
    ({"activation": "relu"}, r"model\.activation='relu' is unknown; allowed: quick_gelu, gelu"),
    ({"dtype": "float16"}, r"model\.dtype='float16' is unknown; allowed: float32, bfloat16"),
    ({"embedding_init": "zeros"}, r"model\.embedding_init='zeros' is unknown; allowed: clip, scratch"),
    ({"text": {"width": 50, "heads": 4}}, r"model\.text\.width=50 is not divisible by model\.text\.heads=4"),
    ({"embed_dim": 30, "temporal": "sequence"}, r"model\.embed_dim=30 is not divisible by model\.text\.heads=4"),
    ({"added_proxies": -1}, r"model\.vision\.added_proxies=-1 must be at least 0"),
    ({"time_positions": -2}, r"model\.vision\.time_positions=-2 must be at least 0"),
    ({"patch_size": 8.0}, r"model\.patch_size=8\.0 must be an integer"),
    ({"embed_dim": True}, r"model\.embed_dim=True must be an integer"),
    ({"added_proxies": 1.0}, r"model\.vision\.added_proxies=1\.0 must be an integer"),
    ({"image_size": 0}, r"model\.image_size=0 must be at least 1"),
    ({"patch_dropout": 1.0}, r"model\.patch_dropout=1\.0 must be at least 0 and below 1$"),
  ],
)
def test_invalid_config_is_rejected_with_field_value_and_remedy(overrides, message):
  with pytest.raises(UserError, match=message):
    clip_vip.from_config(tiny.config(**overrides))


@pytest.mark.parametrize("temporal", clip_vip.TEMPORAL)
def test_parameter_shapes_equal_those_of_a_traced_model(temporal):
  config = tiny.config(temporal=temporal)
  video, ids = np.zeros((1, 1, 32, 32, 3), np.float32), np.zeros((1, 2), np.int32)
  traced = jax.eval_shape(clip_vip.from_config(config).init, jax.random.key(0), video, ids)["params"]
  assert clip_vip.parameter_shapes(config) == traced
