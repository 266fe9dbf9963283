"""The model against the public implementation's numbers, and its variants against each other."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import linen as nn
from numeric import assert_close

from clipvip_jax.models import clip_vip, proxy_attention
from clipvip_jax.models.transformer import Block, dense
from clipvip_jax.utils.errors import UserError


@pytest.mark.parametrize("frames", [1, 2, 4, 6, 12])
def test_features_equal_the_reference(golden, frames):
  data = golden("forward.npz")
  video = tiny.channels_last(data[f"T{frames}/video"])
  apply = jax.jit(tiny.model().apply)
  video_features, text_features, _ = apply({"params": tiny.params(golden)}, video, data[f"T{frames}/input_ids"])
  assert_close(video_features, data[f"T{frames}/video_features"])
  assert_close(text_features, data[f"T{frames}/text_features"])


@pytest.mark.parametrize("tower", ["vision", "text"])
def test_hidden_states_equal_the_reference(golden, tower):
  data = golden("forward.npz")
  hidden = []  # what enters each block, and what leaves the last

  def record(call, args, kwargs, context):
    result = call(*args, **kwargs)
    if isinstance(context.module, Block) and tower in context.module.path:
      hidden[-1:] = [args[0], result]
    return result

  with nn.intercept_methods(record), jax.disable_jit():  # under jit only one block is traced
    tiny.model().apply({"params": tiny.params(golden)}, tiny.channels_last(data["T4/video"]), data["T4/input_ids"])
  # The reference masks padding; ours lets it compute what nothing reads.
  kept = data["T4/attention_mask"].astype(bool) if tower == "text" else np.s_[:]
  assert len(hidden) == 3
  for i, states in enumerate(hidden[:-1]):
    assert_close(states[kept], data[f"T4/{tower}_hidden_{i}"][kept], name=f"hidden states {i}")
  # Of the last block one token is read, so no other is computed.
  read = data["T4/input_ids"].argmax(1) if tower == "text" else np.zeros(len(hidden[-1]), int)
  last = data[f"T4/{tower}_hidden_2"][np.arange(len(read)), read]
  assert_close(hidden[-1][:, 0], last, name="what leaves the last block")


def test_plain_clip_with_mean_pooling_equals_the_reference(golden):
  data = golden("meanpool.npz")
  model = tiny.model(added_proxies=0, time_positions=0, temporal="mean")
  params = tiny.params(golden, "clip_tiny.safetensors")
  video, text, _ = model.apply({"params": params}, tiny.channels_last(data["video"]), data["input_ids"])
  assert_close(video, data["video_features"])
  assert_close(text, data["text_features"])


def test_a_clip_of_one_frame_through_plain_clip_is_mean_pooling_of_it(golden):
  video = tiny.channels_last(golden("meanpool.npz")["video"])[:, :1]
  params = {"params": tiny.params(golden, "clip_tiny.safetensors")}
  features = [
    tiny.model(added_proxies=0, time_positions=0, temporal=temporal).apply(params, video, method="embed_video")
    for temporal in ("proxies", "mean")
  ]
  assert_close(*features)


@pytest.mark.parametrize("added_proxies", [0, 1, 7])
@pytest.mark.parametrize("frames", [1, 3])
def test_proxy_guided_attention_equals_full_attention_under_its_mask(added_proxies, frames):
  proxies, patches = 1 + added_proxies, 5
  tokens = proxies + frames * patches
  frame = np.concatenate([np.full(proxies, -1), np.repeat(np.arange(frames), patches)])
  allowed = (frame[:, None] == frame) | (frame[:, None] == -1) | (frame == -1)
  query, key, value = jax.random.normal(jax.random.key(0), (3, 2, tokens, 4, 8))
  by_heads = functools.partial(jnp.swapaxes, axis1=1, axis2=2)
  heads = by_heads(query), by_heads(key), by_heads(value)
  masked = by_heads(proxy_attention.attend(*heads, jnp.asarray(allowed)))
  ours = proxy_attention.proxy_guided(query, key, value, num_proxies=proxies, num_frames=frames)
  assert_close(ours, masked, 1e-6)


@pytest.mark.parametrize(
  ("name", "patches", "proxies", "head", "fused"),
  [
    ("causal", 6, 0, 8, True),
    ("causal", 5, 0, 8, False),  # cuDNN takes even numbers of queries
    ("full", 6, 0, 8, True),
    ("full", 5, 0, 8, False),
    ("proxy_guided", 6, 2, 8, True),
    ("proxy_guided", 5, 1, 8, False),
    ("proxy_guided", 6, 1, 8, False),  # and of keys
    ("proxy_guided", 6, 2, 12, False),  # and heads of multiples of eight
  ],
)
def test_fused_attention_is_given_the_same_queries_keys_and_values(monkeypatch, name, patches, proxies, head, fused):
  """cuDNN needs a GPU; JAX's own implementation of the same call stands in for it."""
  calls = []

  def standing_in(query, key, value, *, scale, is_causal, implementation):
    calls.append(implementation)
    return dot_product_attention(query, key, value, scale=scale, is_causal=is_causal, implementation="xla")

  dot_product_attention = jax.nn.dot_product_attention
  monkeypatch.setattr(jax.nn, "dot_product_attention", standing_in)
  sizes = {"num_proxies": proxies, "num_frames": 3} if proxies else {}
  tokens = proxies + 3 * patches if sizes else patches
  inputs = jax.random.normal(jax.random.key(0), (3, 2, tokens, 4, head))
  pattern = functools.partial(getattr(proxy_attention, name), *inputs, **sizes)
  assert_close(pattern(implementation="cudnn"), pattern(implementation="xla"), 1e-6)
  assert calls == (["cudnn"] if fused else [])


def test_attention_by_cudnn_where_it_is_not_is_refused():
  net = tiny.model(attention="cudnn")
  with pytest.raises(UserError, match=r"model\.attention=cudnn needs .*float32 on cpu; model\.attention=auto"):
    net.init(jax.random.key(0), np.zeros((1, 1, 32, 32, 3)), np.zeros((1, 4), int))
  with pytest.raises(UserError, match=r"model\.attention='flash' is unknown; allowed: auto, xla, cudnn"):
    tiny.model(attention="flash")


def test_patches_of_other_frames_reach_a_patch_only_through_proxies():
  pattern = functools.partial(proxy_attention.proxy_guided, num_proxies=4, num_frames=4)
  query = jax.random.normal(jax.random.key(0), (1, 4 + 4 * 3, 2, 8))
  before = pattern(query, query, query)
  after = pattern(query.at[:, -1].add(1.0), query.at[:, -1].add(1.0), query.at[:, -1].add(1.0))
  np.testing.assert_array_equal(before[:, 4:-3], after[:, 4:-3])
  assert not np.allclose(before[:, :4], after[:, :4])


def test_ids_behind_the_end_never_reach_the_features(golden):
  ids = golden("forward.npz")["T1/input_ids"]
  padded = np.concatenate([ids, np.full((len(ids), 4), 7)], axis=1)
  apply = functools.partial(tiny.model().apply, {"params": tiny.params(golden)}, method="embed_text")
  assert_close(apply(padded), apply(ids), 1e-6)


def test_bfloat16_computes_near_float32_and_keeps_float32_parameters_and_features(golden):
  data = golden("forward.npz")
  net = tiny.model(dtype="bfloat16")
  assert {str(x.dtype) for x in jax.tree.leaves(tiny.random_params(net))} == {"float32"}
  params, video = {"params": tiny.params(golden)}, tiny.channels_last(data["T4/video"])
  features = net.apply(params, video, method="embed_video")
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
    ({"patch_size": 7}, "patch_size"),
    ({"temporal": "maen"}, "proxies, full, sequence, mean"),
    ({"activation": "relu"}, "quick_gelu"),
    ({"dtype": "float16"}, "bfloat16"),
    ({"text": {"width": 50, "heads": 4}}, "text.heads"),
  ],
)
def test_sizes_and_names_that_cannot_be_are_refused(overrides, message):
  with pytest.raises(UserError, match=message):
    clip_vip.from_config(tiny.config(**overrides))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_gradients_of_a_dense_layer_are_those_of_jax_and_float32_whatever_it_computes_in(dtype):
  x, weight = (jax.random.normal(jax.random.key(i), (64, 64)) for i in range(2))
  x, kernel, bias, weight = x.astype(dtype), weight / 8, weight[0], weight.astype(dtype)

  def objective(layer, x, kernel, bias):
    return (layer(x, kernel, bias).astype(jnp.float32) * weight.astype(jnp.float32)).sum()

  def plain(x, kernel, bias):
    return x @ kernel.astype(dtype).astype(x.dtype) + bias.astype(dtype).astype(x.dtype)

  ours = jax.grad(functools.partial(objective, dense), (0, 1, 2))(x, kernel, bias)
  exact = jax.grad(functools.partial(objective, plain), (0, 1, 2))(x.astype(jnp.float32), kernel, bias)
  assert [y.dtype for y in ours] == [dtype, jnp.float32, jnp.float32]
  assert_close(ours[0], exact[0], 1e-6 if dtype == "float32" else 1e-2)
  # Not rounded to bfloat16: inputs were, sums are not.
  assert_close(weight.astype(jnp.float32).sum(0), ours[2], 1e-6)
  assert_close(np.asarray(x, np.float64).T @ np.asarray(weight, np.float64), ours[1], 1e-6)
