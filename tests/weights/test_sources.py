"""Weights of any SOURCE: the golden models under all published names, folders, the Hub, and invalid sources."""

import dataclasses
import json
import warnings

import jax
import numpy as np
import pytest
import tiny
from ml_collections import ConfigDict
from numeric import assert_close
from project_paths import GOLDEN
from random_run import random_run
from safetensors.numpy import load_file, save_file

from clipvip_jax.models import clip_vip
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import log
from clipvip_jax.weights import sources
from clipvip_jax.weights.model_config import Hints

HEADS = Hints(activation="quick_gelu", vision_heads=4, text_heads=4)


def read(name, hints=HEADS):
  return sources.read_weights(str(GOLDEN / name), hints)


def features(weights, video, ids, **changes):
  config = weights.config.copy_and_resolve_references()
  config.update(changes)
  net = clip_vip.from_config(config)
  params = {"params": tiny.nested(weights.params)}
  return net.apply(params, video, method="embed_video"), net.apply(params, ids, method="embed_text")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vip_tiny.safetensors", "vip_tiny.pt"])
@pytest.mark.parametrize("frames", [1, 4, 12])
def test_published_clip_vip_gives_the_reference_features(golden, name, frames):
  data = golden("forward.npz")
  embedded = features(read(name), tiny.channels_last(data[f"T{frames}/video"]), data[f"T{frames}/input_ids"])
  assert_close(embedded[0], data[f"T{frames}/video_features"])
  assert_close(embedded[1], data[f"T{frames}/text_features"])


@pytest.mark.parametrize("name", ["clip_tiny.safetensors", "openclip_tiny.safetensors"])
def test_published_clip_gives_the_reference_features(golden, name):
  data = golden("meanpool.npz")
  weights = read(name)
  assert weights.is_clip
  embedded = features(weights, tiny.channels_last(data["video"]), data["input_ids"], temporal="mean")
  assert_close(embedded[0], data["video_features"])
  assert_close(embedded[1], data["text_features"])


def test_sizes_are_inferred_from_the_weights():
  expected = tiny.config()
  assert read("vip_tiny.pt").config.to_dict() == expected.to_dict()
  assert read("openclip_tiny.safetensors").config.to_dict() == tiny.config(0, 0).to_dict()


def test_default_heads_and_activation_are_the_publishers():
  config = read("clip_tiny.safetensors", Hints()).config
  assert (config.vision.heads, config.text.heads, config.activation) == (1, 1, "quick_gelu")
  assert read("openclip_tiny.safetensors", Hints()).config.activation == "gelu"


def test_heads_that_do_not_divide_the_width_are_refused():
  with pytest.raises(UserError, match=r"vision_heads=5 does not divide the tower's width 64; pass the number of heads"):
    read("clip_tiny.safetensors", Hints(vision_heads=5))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_converted_to_float32(tmp_path, dtype):
  exact = load_file(GOLDEN / "clip_tiny.safetensors")
  half = {k: np.asarray(jax.numpy.asarray(x, dtype)) if x.dtype == np.float32 else x for k, x in exact.items()}
  path = tmp_path / "half.safetensors"
  save_file(half, path)
  weights = sources.read_weights(str(path), HEADS)
  assert {str(x.dtype) for x in weights.params.values()} == {"float32"}
  for name, value in read("clip_tiny.safetensors").params.items():
    assert_close(weights.params[name], value, 0.01, name)


def folder(path, name="clip_tiny.safetensors", config=None, file="model.safetensors", config_file="config.json"):
  path.mkdir()
  (path / file).write_bytes((GOLDEN / name).read_bytes())
  if config is not None:
    (path / config_file).write_text(config if isinstance(config, str) else json.dumps(config))
  return str(path)


HUGGINGFACE = {
  "projection_dim": 32,
  "text_config": {"hidden_size": 48, "num_attention_heads": 4, "hidden_act": "gelu"},
  "vision_config": {"hidden_size": 64, "num_attention_heads": 4, "hidden_act": "gelu", "patch_size": 8},
}
OPENCLIP = {
  "model_cfg": {
    "embed_dim": 32,
    "vision_cfg": {"layers": 2, "width": 64, "head_width": 16, "patch_size": 8},
    "text_cfg": {"width": 48, "heads": 4, "layers": 2},
  }
}


def test_huggingface_config_sets_heads_and_activation(tmp_path):
  config = sources.read_weights(folder(tmp_path / "clip", config=HUGGINGFACE)).config
  assert (config.vision.heads, config.text.heads, config.activation) == (4, 4, "gelu")


def test_openclip_config_sets_heads_and_activation(tmp_path):
  names = {"file": "open_clip_model.safetensors", "config_file": "open_clip_config.json"}
  config = sources.read_weights(folder(tmp_path / "clip", "openclip_tiny.safetensors", OPENCLIP, **names)).config
  assert (config.vision.heads, config.text.heads, config.activation) == (4, 4, "gelu")


@pytest.mark.parametrize(
  ("config", "message"),
  [
    ({**HUGGINGFACE, "projection_dim": 512}, "has embed_dim=512, the weights have 32; fix it"),
    (
      {**HUGGINGFACE, "vision_config": {"hidden_act": "relu"}},
      "hidden_act='relu' is not supported; allowed: quick_gelu, gelu",
    ),
    ("{", "config.json is not a configuration of CLIP"),
    ("[" * 100_000, "not a configuration of CLIP .RecursionError"),
    ({**HUGGINGFACE, "text_config": {"hidden_act": "quick_gelu"}}, "hidden_act differs between the towers"),
    (
      {**HUGGINGFACE, "vision_config_dict": {**HUGGINGFACE["vision_config"], "layer_norm_eps": 1e-6}},
      "layer_norm_eps=1e-06 is not supported; CLIP has 1e-5",
    ),
    (
      {**HUGGINGFACE, "vision_config": {**HUGGINGFACE["vision_config"], "num_attention_heads": "4"}},
      "num_attention_heads='4' must be an integer of at least 1",
    ),
    ({**HUGGINGFACE, "vision_config": 3}, "config.json: vision_config must be a JSON object, not 3"),
  ],
)
def test_config_that_contradicts_the_weights_is_refused(tmp_path, config, message):
  with pytest.raises(UserError, match=message):
    sources.read_weights(folder(tmp_path / "clip", config=config))


@pytest.mark.parametrize(
  ("vision", "message"),
  [
    ({"head_width": 0}, "head_width=0 must be an integer of at least 1"),
    ({"global_average_pool": True}, "global_average_pool=True is not supported; CLIP has False"),
    ({"timm_model_name": "resnet50"}, "timm_model_name='resnet50' is not supported; CLIP has None"),
  ],
)
def test_openclip_config_that_differs_from_clip_is_refused(tmp_path, vision, message):
  model = OPENCLIP["model_cfg"]
  config = {"model_cfg": {**model, "vision_cfg": {**model["vision_cfg"], **vision}}}
  names = {"file": "open_clip_model.safetensors", "config_file": "open_clip_config.json"}
  with pytest.raises(UserError, match=message):
    sources.read_weights(folder(tmp_path / "clip", "openclip_tiny.safetensors", config, **names))


def test_config_of_something_else_is_ignored(tmp_path):
  names = {"file": "open_clip_model.safetensors", "config_file": "open_clip_config.json"}
  source = folder(tmp_path / "clip", "openclip_tiny.safetensors", OPENCLIP, **names)
  (tmp_path / "clip" / "config.json").write_text('{"architecture": "vit_base"}')
  assert sources.read_weights(source).config.vision.heads == 4


def test_openai_tensors_imply_quick_gelu_and_others_warn_of_gelu(tmp_path, caplog, monkeypatch):
  monkeypatch.setattr(log, "propagate", True)
  size = {"input_resolution": np.array(32), "context_length": np.array(16), "vocab_size": np.array(100)}
  source = changed(tmp_path, lambda t: t.update(size), "openclip_tiny.safetensors")
  assert sources.read_weights(source).config.activation == "quick_gelu" and not caplog.text
  assert read("openclip_tiny.safetensors", Hints()).config.activation == "gelu"
  assert "no file specifies the activation; assuming gelu" in caplog.text


@pytest.mark.parametrize(
  ("name", "hints", "warned"),
  [
    ("clip_tiny.safetensors", Hints(), True),
    ("clip_tiny.safetensors", Hints(vision_heads=4), True),
    ("clip_tiny.safetensors", Hints(activation="gelu"), False),
    ("vip_tiny.safetensors", Hints(), False),
  ],
)
def test_names_of_huggingface_without_a_configuration_warn_of_quick_gelu(name, hints, warned, caplog, monkeypatch):
  monkeypatch.setattr(log, "propagate", True)
  read(name, hints)
  assert ("assuming quick_gelu, as in OpenAI's weights (LAION's need gelu)" in caplog.text) is warned


def changed(tmp_path, change, name="clip_tiny.safetensors"):
  tensors = load_file(GOLDEN / name)
  change(tensors)
  path = tmp_path / "weights.safetensors"
  save_file(tensors, path)
  return str(path)


def rename_all(tensors, names):
  tensors.clear()
  tensors.update({name: np.zeros((2, 2), np.float32) for name in names})


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (
      lambda t: rename_all(t, ["visual.layer1.0.conv1.weight", "positional_embedding"]),
      "file looks like a ResNet CLIP",
    ),
    (lambda t: rename_all(t, ["logit_bias", "vision_model.head.probe"]), "file looks like SigLIP"),
    (lambda t: t.pop("vision_model.embeddings.patch_embedding.weight"), "vision/patch_embedding is missing"),
    (lambda t: t.pop("vision_model.encoder.layers.0.mlp.fc1.weight"), r"the vision tower has blocks \[1\]"),
    (
      lambda t: t.update({"vision_model.embeddings.position_embedding.weight": np.zeros((12, 64), np.float32)}),
      "11 patches, which do not form a square grid",
    ),
    (
      lambda t: t.update({"text_model.embeddings.token_embedding.weight": np.zeros(100, np.float32)}),
      r"text/token_embedding has shape \(100,\), expected 2 axes",
    ),
    (
      lambda t: t.update({"clipmodel.logit_scale": np.zeros((), np.float32)}),
      "is a second tensor for logit_scale; remove one",
    ),
    (
      lambda t: t.update({"vision_model.encoder.layers.0.mlp.fc1.weight": np.zeros((), np.float32)}),
      "mlp/up/kernel of a vision block does not have 2 axes",
    ),
    (
      lambda t: t.update({"vision_model.embeddings.position_embedding.weight": np.zeros((0, 64), np.float32)}),
      "do not form a square grid",
    ),
    (
      lambda t: t.update({"visual_projection.weight": np.zeros((32, 64), np.int32)}),
      "vision/projection/kernel has dtype int32, expected floating point",
    ),
  ],
)
def test_weights_that_are_not_clip_are_refused_by_tensor_name(tmp_path, change, message):
  with pytest.raises(UserError, match=message) as refused:
    sources.read_weights(changed(tmp_path, change))
  assert "weights.safetensors" in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
  ("name", "shape", "message"),
  [
    ("text_model.embeddings.token_embedding.weight", (0, 48), r"model\.text\.vocab_size=0 must be at least 4"),
    ("text_model.embeddings.position_embedding.weight", (0, 48), r"model\.text\.positions=0 must be at least 2"),
    ("visual_projection.weight", (0, 64), r"model\.embed_dim=0 must be at least 1"),
  ],
)
def test_sizes_that_no_model_has_are_refused_with_the_name_of_the_file(tmp_path, name, shape, message):
  with pytest.raises(UserError, match=rf"weights\.safetensors: {message}"):
    sources.read_weights(changed(tmp_path, lambda t: t.update({name: np.zeros(shape, np.float32)})))


@pytest.mark.parametrize("name", ["text_projection.weight", "visual_projection.weight"])
def test_values_beyond_float32_become_infinite_without_a_warning_of_numpy(tmp_path, name):
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    weights = sources.read_weights(changed(tmp_path, lambda t: t.update({name: t[name].astype(float) * 1e300})), HEADS)
  assert not all(np.isfinite(x).all() for x in weights.params.values())


@pytest.mark.parametrize("name", ["num_frames", "text_length"])
@pytest.mark.parametrize("value", [6.0, "6", True, 0])
def test_lengths_of_a_run_that_are_no_integers_are_refused(name, value):
  weights = dataclasses.replace(random_run(), run=ConfigDict({"data": {name: value}}))
  with pytest.raises(UserError, match=rf"a run: data\.{name}={value!r} must be an integer of at least 1"):
    getattr(weights, name)


def test_fused_matrix_that_cannot_be_split_is_refused(tmp_path):
  name = "transformer.resblocks.0.attn.in_proj_weight"
  source = changed(tmp_path, lambda t: t.update({name: np.zeros((143, 48), np.float32)}), "openclip_tiny.safetensors")
  with pytest.raises(UserError, match=f"{name} .*cannot be split into query, key and value"):
    sources.read_weights(source)


def test_data_parallel_prefix_is_removed(tmp_path):
  def wrap(tensors):
    items = dict(tensors)
    tensors.clear()
    tensors.update({f"module.{name}": x for name, x in items.items()})

  assert sources.read_weights(changed(tmp_path, wrap, "vip_tiny.safetensors"), HEADS).config.vision.added_proxies == 3
