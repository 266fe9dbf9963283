"""Weights of any source: the golden models under every published name, folders, and what is refused."""

import json

import jax
import numpy as np
import pytest
import tiny
from numeric import assert_close
from project_paths import GOLDEN
from safetensors.numpy import load_file, save_file

from clipvip_jax.models import clip_vip
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import log
from clipvip_jax.weights import names_clip_vip, sources
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


@pytest.mark.parametrize("name", ["vip_tiny.safetensors", "vip_tiny.pt"])
@pytest.mark.parametrize("frames", [1, 4, 12])
def test_published_clip_vip_gives_the_reference_features(golden, name, frames):
  data = golden("forward.npz")
  found = features(read(name), tiny.channels_last(data[f"T{frames}/video"]), data[f"T{frames}/input_ids"])
  assert_close(found[0], data[f"T{frames}/video_features"])
  assert_close(found[1], data[f"T{frames}/text_features"])


@pytest.mark.parametrize("name", ["clip_tiny.safetensors", "openclip_tiny.safetensors"])
def test_published_clip_gives_the_reference_features(golden, name):
  data = golden("meanpool.npz")
  weights = read(name)
  assert weights.is_clip
  found = features(weights, tiny.channels_last(data["video"]), data["input_ids"], temporal="mean")
  assert_close(found[0], data["video_features"])
  assert_close(found[1], data["text_features"])


def test_sizes_are_read_from_the_weights_alone():
  expected = tiny.config()
  assert read("vip_tiny.pt").config.to_dict() == expected.to_dict()
  assert read("openclip_tiny.safetensors").config.to_dict() == tiny.config(0, 0).to_dict()


def test_without_hints_clips_conventions_hold():
  config = read("clip_tiny.safetensors", Hints()).config
  assert (config.vision.heads, config.text.heads, config.activation) == (1, 1, "quick_gelu")
  assert read("openclip_tiny.safetensors", Hints()).config.activation == "gelu"


def test_heads_that_do_not_divide_the_width_are_refused():
  with pytest.raises(UserError, match=r"vision_heads=5 do not divide the tower's width of 64"):
    read("clip_tiny.safetensors", Hints(vision_heads=5))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_read(tmp_path, dtype):
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


def test_a_folder_of_huggingface_tells_heads_and_activation(tmp_path):
  config = sources.read_weights(folder(tmp_path / "clip", config=HUGGINGFACE)).config
  assert (config.vision.heads, config.text.heads, config.activation) == (4, 4, "gelu")


def test_a_folder_of_openclip_tells_heads_and_activation(tmp_path):
  names = {"file": "open_clip_model.safetensors", "config_file": "open_clip_config.json"}
  config = sources.read_weights(folder(tmp_path / "clip", "openclip_tiny.safetensors", OPENCLIP, **names)).config
  assert (config.vision.heads, config.text.heads, config.activation) == (4, 4, "gelu")


@pytest.mark.parametrize(
  ("config", "message"),
  [
    ({**HUGGINGFACE, "projection_dim": 512}, "embed_dim=512, the weights say 32"),
    ({**HUGGINGFACE, "vision_config": {"hidden_act": "relu"}}, "hidden_act is 'relu'; allowed: quick_gelu, gelu"),
    ("{", "config.json is no configuration"),
    ("[" * 100_000, "no configuration of CLIP: RecursionError"),
    ({**HUGGINGFACE, "text_config": {"hidden_act": "quick_gelu"}}, "different activations"),
    ({**HUGGINGFACE, "vision_config_dict": {"layer_norm_eps": 1e-6}}, "layer_norm_eps is 1e-06"),
    ({**HUGGINGFACE, "vision_config_dict": {"num_attention_heads": "4"}}, "num_attention_heads='4' must be a whole"),
    ({**HUGGINGFACE, "vision_config": 3}, "config.json is no configuration"),
  ],
)
def test_a_configuration_that_contradicts_the_weights_is_refused(tmp_path, config, message):
  with pytest.raises(UserError, match=message):
    sources.read_weights(folder(tmp_path / "clip", config=config))


@pytest.mark.parametrize(
  ("vision", "message"),
  [
    ({"head_width": 0}, "head_width=0 must be a whole number from 1"),
    ({"global_average_pool": True}, "global_average_pool is True"),
    ({"timm_model_name": "resnet50"}, "timm_model_name is 'resnet50'"),
  ],
)
def test_an_openclip_that_is_no_clip_is_refused(tmp_path, vision, message):
  model = OPENCLIP["model_cfg"]
  config = {"model_cfg": {**model, "vision_cfg": {**model["vision_cfg"], **vision}}}
  names = {"file": "open_clip_model.safetensors", "config_file": "open_clip_config.json"}
  with pytest.raises(UserError, match=message):
    sources.read_weights(folder(tmp_path / "clip", "openclip_tiny.safetensors", config, **names))


def test_a_foreign_configuration_hides_no_other(tmp_path):
  names = {"file": "open_clip_model.safetensors", "config_file": "open_clip_config.json"}
  source = folder(tmp_path / "clip", "openclip_tiny.safetensors", OPENCLIP, **names)
  (tmp_path / "clip" / "config.json").write_text('{"architecture": "vit_base"}')
  assert sources.read_weights(source).config.vision.heads == 4


def test_openais_own_names_mean_its_activation_and_others_are_guessed_aloud(tmp_path, caplog, monkeypatch):
  monkeypatch.setattr(log, "propagate", True)
  size = {"input_resolution": np.array(32), "context_length": np.array(16), "vocab_size": np.array(100)}
  source = changed(tmp_path, lambda t: t.update(size), "openclip_tiny.safetensors")
  assert sources.read_weights(source).config.activation == "quick_gelu" and not caplog.text
  assert read("openclip_tiny.safetensors", Hints()).config.activation == "gelu"
  assert "nothing says which activation" in caplog.text


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
    (lambda t: rename_all(t, ["visual.layer1.0.conv1.weight", "positional_embedding"]), "looks like a ResNet CLIP"),
    (lambda t: rename_all(t, ["logit_bias", "vision_model.head.probe"]), "looks like SigLIP"),
    (lambda t: t.pop("vision_model.embeddings.patch_embedding.weight"), "vision/patch_embedding is missing"),
    (lambda t: t.pop("vision_model.encoder.layers.0.mlp.fc1.weight"), r"the vision tower has blocks \[1\]"),
    (
      lambda t: t.update({"vision_model.embeddings.position_embedding.weight": np.zeros((12, 64), np.float32)}),
      "11 patches, which are no square grid",
    ),
    (
      lambda t: t.update({"text_model.embeddings.token_embedding.weight": np.zeros(100, np.float32)}),
      r"text/token_embedding is \(100,\), expected 2 axes",
    ),
    (lambda t: t.update({"clipmodel.logit_scale": np.zeros((), np.float32)}), "is the second tensor for logit_scale"),
    (
      lambda t: t.update({"vision_model.encoder.layers.0.mlp.fc1.weight": np.zeros((), np.float32)}),
      "mlp/up/kernel has not two axes",
    ),
    (
      lambda t: t.update({"vision_model.embeddings.position_embedding.weight": np.zeros((0, 64), np.float32)}),
      "no square grid",
    ),
    (
      lambda t: t.update({"visual_projection.weight": np.zeros((32, 64), np.int32)}),
      "vision/projection/kernel holds int32",
    ),
  ],
)
def test_weights_of_something_else_are_refused_by_name(tmp_path, change, message):
  with pytest.raises(UserError, match=message) as refused:
    sources.read_weights(changed(tmp_path, change))
  assert "weights.safetensors" in str(refused.value) and "\n" not in str(refused.value)


def test_a_fused_matrix_that_is_no_three_parts_is_refused(tmp_path):
  name = "transformer.resblocks.0.attn.in_proj_weight"
  source = changed(tmp_path, lambda t: t.update({name: np.zeros((143, 48), np.float32)}), "openclip_tiny.safetensors")
  with pytest.raises(UserError, match=f"{name} .*three equal parts"):
    sources.read_weights(source)


def test_nan_is_counted_and_named(tmp_path, caplog, monkeypatch):
  monkeypatch.setattr(log, "propagate", True)

  def spoil(tensors):
    tensors["text_projection.weight"][0, :3] = np.nan
    tensors["visual_projection.weight"][0, 0] = np.inf

  sources.read_weights(changed(tmp_path, spoil), HEADS)
  assert "4 numbers are NaN or infinite" in caplog.text
  assert "text/projection/kernel (3 of 1536)" in caplog.text and "vision/projection/kernel (1 of 2048)" in caplog.text


@pytest.mark.parametrize(
  ("source", "message"),
  [
    ("none.safetensors", "no such file"),
    ("weights.onnx", r"no source of weights: allowed are files \(.safetensors, .pt"),
    ("hf://onlyname", "expected hf://OWNER/NAME"),
    ("hf://../../etc/passwd", "expected hf://OWNER/NAME"),
    (".", "holds no weights"),
    ("x" * 5000, "no path that can be read"),
  ],
)
def test_what_is_no_source_is_refused(tmp_path, monkeypatch, source, message):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(UserError, match=message):
    sources.read_weights(source)


def test_a_hub_name_is_fetched_into_a_folder(tmp_path, monkeypatch):
  import huggingface_hub

  asked = []

  def snapshot_download(name, revision, allow_patterns):
    asked.append((name, revision))
    return folder(tmp_path / "clip", config=HUGGINGFACE)

  monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
  weights = sources.read_weights("hf://openai/clip-tiny@v1")
  assert asked == [("openai/clip-tiny", "v1")] and weights.source == "hf://openai/clip-tiny@v1"
  assert weights.config.vision.heads == 4


def test_names_behind_a_wrapper_of_data_parallel_training_are_read(tmp_path):
  def wrap(tensors):
    items = dict(tensors)
    tensors.clear()
    tensors.update({names_clip_vip.WRAPPER + name: x for name, x in items.items()})

  assert sources.read_weights(changed(tmp_path, wrap, "vip_tiny.safetensors"), HEADS).config.vision.added_proxies == 3
