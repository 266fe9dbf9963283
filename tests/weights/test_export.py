"""Export to every layout and back, bit for bit."""

import dataclasses
import json

import numpy as np
import pytest
from project_paths import GOLDEN
from safetensors.numpy import load_file, save_file

from clipvip_jax import convert
from clipvip_jax.utils.errors import UserError
from clipvip_jax.weights import export, sources
from clipvip_jax.weights.model_config import Hints

HEADS = Hints(activation="quick_gelu", vision_heads=4, text_heads=4)


def read(source):
  return sources.read_weights(str(source), HEADS)


def assert_equal(a, b):
  assert a.keys() == b.keys()
  for name, x in a.items():
    np.testing.assert_array_equal(x, b[name], name)


@pytest.mark.parametrize("layout", export.LAYOUTS)
@pytest.mark.parametrize("name", ["clip_tiny.safetensors", "openclip_tiny.safetensors"])
def test_clip_round_trips_through_every_layout(tmp_path, name, layout):
  first = read(GOLDEN / name)
  (path,) = export.export_weights(first, tmp_path / "exported.safetensors", layout)
  exported = read(path)
  assert_equal(exported.params, first.params)
  own = "openclip" if name.startswith("open") else "clip"
  (back,) = export.export_weights(exported, tmp_path / "back.safetensors", own)
  original, restored = load_file(GOLDEN / name), load_file(back)
  assert original.keys() == restored.keys()
  for key, value in original.items():
    # A scalar has shape [1] in some files and [] in others.
    np.testing.assert_array_equal(restored[key].reshape(value.shape), value, key)


@pytest.mark.parametrize("layout", export.LAYOUTS)
def test_metadata_of_a_file_keeps_heads_and_activation(tmp_path, layout):
  hints = Hints(activation="gelu", vision_heads=8, text_heads=2)
  first = sources.read_weights(str(GOLDEN / "clip_tiny.safetensors"), hints)
  (path,) = export.export_weights(first, tmp_path / "exported.safetensors", layout)
  config = sources.read_weights(str(path)).config
  assert (config.activation, config.vision.heads, config.text.heads) == ("gelu", 8, 2)
  assert sources.read_weights(str(path), HEADS).config.vision.heads == 4, "the caller's hints take precedence"


@pytest.mark.parametrize(
  ("name", "value", "message"),
  [
    ("activation", "tanh", "activation='tanh' of the file is unknown; allowed: quick_gelu, gelu"),
    ("vision_heads", "0", "vision_heads=0 must be an integer of at least 1"),
    ("text_heads", "9" * 5000, "text_heads='999"),
    ("text_heads", "5", "text_heads=5 does not divide the tower's width 48"),
  ],
)
def test_invalid_metadata_is_refused(tmp_path, name, value, message):
  tensors = load_file(GOLDEN / "clip_tiny.safetensors")
  save_file(tensors, tmp_path / "odd.safetensors", {f"clipvip_jax.{name}": value})
  with pytest.raises(UserError, match=message):
    sources.read_weights(str(tmp_path / "odd.safetensors"))


@pytest.mark.parametrize("name", ["vip_tiny.safetensors", "vip_tiny.pt"])
def test_clip_vip_layout_keeps_every_published_tensor(tmp_path, name):
  (path,) = export.export_weights(read(GOLDEN / name), tmp_path / "out.safetensors", "clip_vip")
  assert_equal(load_file(path), load_file(GOLDEN / "vip_tiny.safetensors"))


@pytest.mark.parametrize("layout", ["clip", "openclip"])
def test_layout_without_proxies_is_refused_for_clip_vip(tmp_path, layout):
  with pytest.raises(
    UserError, match=r"does not support vision/added_proxies and vision/time_embedding; use layout clip_vip"
  ):
    export.export_weights(read(GOLDEN / "vip_tiny.pt"), tmp_path / "out.safetensors", layout)
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("layout", export.LAYOUTS)
def test_sequence_transformer_is_refused_by_every_layout(tmp_path, layout):
  weights = read(GOLDEN / "clip_tiny.safetensors")
  params = {**weights.params, "sequence/position_embedding": np.zeros((4, 32), np.float32)}
  with pytest.raises(
    UserError, match=r"no layout supports the sequence transformer of model\.temporal=sequence; use the workdir"
  ):
    export.export_weights(dataclasses.replace(weights, params=params), tmp_path / "out", layout)


@pytest.mark.parametrize("layout", export.LAYOUTS)
def test_config_of_a_folder_restores_the_model(tmp_path, layout):
  weights = read(GOLDEN / "clip_tiny.safetensors")
  export.export_weights(weights, tmp_path / "out", layout)
  again = sources.read_weights(str(tmp_path / "out"))
  assert again.config.to_dict() == weights.config.to_dict()
  assert_equal(again.params, weights.params)


def test_clip_layout_has_the_fields_that_transformers_needs(tmp_path):
  weights = read(GOLDEN / "clip_tiny.safetensors")
  export.export_weights(weights, tmp_path / "out", "clip")
  config = json.loads((tmp_path / "out" / "config.json").read_text())
  assert config["model_type"] == "clip" and config["vision_config"]["image_size"] == 32
  assert config["text_config"]["eos_token_id"] == 99
  header = (tmp_path / "out" / "model.safetensors").read_bytes()[:4000]
  assert b'"format":"pt"' in header


@pytest.mark.parametrize(
  ("target", "layout", "message"),
  [
    ("out.bin", "clip", r"has the suffix \.bin; use FILE\.safetensors or a folder"),
    ("out.safetensors", "torch", "'torch' is unknown; allowed: clip_vip, clip, openclip"),
    ("exported.safetensors", "clip", "already exists; use another target, or add --overwrite"),
    ("exported.safetensors/x", "clip", "target .*cannot be written"),
  ],
)
def test_invalid_target_is_refused(tmp_path, target, layout, message):
  (tmp_path / "exported.safetensors").write_text("x")
  with pytest.raises(UserError, match=message):
    export.export_weights(read(GOLDEN / "clip_tiny.safetensors"), tmp_path / target, layout)
  assert (tmp_path / "exported.safetensors").read_text() == "x"


def test_incomplete_weights_are_not_converted(tmp_path):
  tensors = load_file(GOLDEN / "clip_tiny.safetensors")
  tensors.pop("vision_model.post_layernorm.bias")
  save_file(tensors, tmp_path / "in.safetensors")
  for layout in export.LAYOUTS:
    with pytest.raises(UserError, match="vision/post_norm/bias is missing"):
      convert.main([str(tmp_path / "in.safetensors"), str(tmp_path / "out"), f"--layout={layout}"])
  with pytest.raises(UserError, match=r"activation='relu' is unknown"):
    convert.main([str(GOLDEN / "clip_tiny.safetensors"), str(tmp_path / "out"), "--activation=relu"])
  assert not (tmp_path / "out").exists()
