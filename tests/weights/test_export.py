"""Export to every layout and back, bit for bit."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest
from project_paths import GOLDEN
from random_run import random_run
from safetensors.numpy import load_file, save_file

from clipvip_jax import convert
from clipvip_jax.inference import load_model
from clipvip_jax.input_pipeline.word_tokenizer import WordTokenizer
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import log
from clipvip_jax.weights import export, names_clip_vip, sources, torch_file
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
  original = {key: x for key, x in original.items() if not key.endswith("position_ids")}
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


@pytest.mark.parametrize(
  ("target", "layout", "message"),
  [
    ("out.bin", "clip", r"has the suffix \.bin; use FILE\.safetensors, FILE\.pt or a folder"),
    ("out.pth.tar", "clip", r"has the suffix \.tar; use FILE\.safetensors, FILE\.pt"),
    ("OUT.CKPT", "clip_vip", r"has the suffix \.ckpt; use FILE\.safetensors, FILE\.pt"),
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


@pytest.mark.parametrize("time", [0, 5])
def test_empty_added_cls_is_clip_vip_without_proxies(tmp_path, time):
  tensors = names_clip_vip.from_flat(random_run(added=0, time=time).params, names_clip_vip.PREFIX)
  name = "clipmodel.vision_model.embeddings.added_cls"
  save_file({**tensors, name: np.zeros((0, 64), np.float32)}, tmp_path / "x.safetensors")
  weights = read(tmp_path / "x.safetensors")
  assert weights.config.vision.added_proxies == 0 and "vision/added_proxies" not in weights.params
  assert not weights.is_clip and weights.temporal == "proxies"
  export.export_weights(weights, tmp_path / "out.safetensors", "clip_vip")
  assert load_file(tmp_path / "out.safetensors")[name].shape == (0, 64)
  assert not read(tmp_path / "out.safetensors").is_clip, "nor is its export"


def test_clip_layout_has_the_tensors_that_transformers_writes(tmp_path):
  weights = read(GOLDEN / "clip_tiny.safetensors")
  for layout in ("clip", "clip_vip"):
    export.export_weights(weights, tmp_path / layout, layout)
  names = {layout: set(load_file(tmp_path / layout / export.LAYOUTS[layout][0])) for layout in ("clip", "clip_vip")}
  assert not any(name.endswith("position_ids") for name in names["clip"]), "a strict load_state_dict refuses them"
  expected = {f"clipmodel.{tower}_model.embeddings.position_ids" for tower in ("text", "vision")}
  assert names["clip_vip"] - {f"clipmodel.{name}" for name in names["clip"]} == expected | {
    "clipmodel.vision_model.embeddings.added_cls"
  }
  assert read(tmp_path / "clip_vip").is_clip, "mean pooling remains a plain CLIP's"


@pytest.mark.parametrize("name", ["clip-vip-v1.2", "there.v2", "there.safetensors", "2024.11.28"])
def test_folder_may_have_a_dot(tmp_path, name):
  if name.startswith("there"):
    (tmp_path / name).mkdir()
  written = export.export_weights(read(GOLDEN / "vip_tiny.pt"), tmp_path / name, "clip_vip")
  files = ("clip_vip.safetensors", "config.json", "preprocessor_config.json")
  assert written == [tmp_path / name / file for file in files]


def test_file_next_to_another_normalization_is_refused(tmp_path):
  (tmp_path / "preprocessor_config.json").write_text('{"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}')
  with pytest.raises(UserError, match=r"another normalization of pixels .*; use another"):
    export.export_weights(read(GOLDEN / "vip_tiny.pt"), tmp_path / "out.safetensors", "clip_vip")
  export.export_weights(read(GOLDEN / "vip_tiny.pt"), tmp_path, "clip_vip", overwrite=True)
  assert_equal(read(tmp_path).params, read(GOLDEN / "vip_tiny.pt").params)


@pytest.mark.parametrize(
  ("name", "layout"),
  [
    ("model.safetensors", "clip_vip"),
    ("open_clip_config.json", "clip"),
    ("config.json", "openclip"),
    ("preprocessor_config.json", "openclip"),
    ("tokenizer.json", "clip"),
    ("pytorch_model.bin", "clip"),
  ],
)
def test_folder_with_files_that_would_be_read_with_the_exported_ones_is_refused(tmp_path, name, layout):
  (tmp_path / name).write_text("{}")
  with pytest.raises(UserError, match=f"contains {name}, which would be read instead of or with the exported files"):
    export.export_weights(read(GOLDEN / "clip_tiny.safetensors"), tmp_path, layout, overwrite=True)
  assert [path.name for path in tmp_path.iterdir()] == [name]


def test_pt_file_has_the_tensors_that_the_reference_saves(tmp_path):
  (path,) = export.export_weights(read(GOLDEN / "vip_tiny.pt"), tmp_path / "out.pt", "clip_vip")
  written, expected = torch_file.read(path), torch_file.read(GOLDEN / "vip_tiny.pt")
  assert_equal(written, expected)
  assert {name: x.dtype for name, x in written.items()} == {name: x.dtype for name, x in expected.items()}


@pytest.mark.parametrize("layout", ["clip", "openclip"])
def test_mean_pooling_is_expressed_by_every_layout(layout):
  export.check_lossless(random_run(added=0, time=0, temporal="mean", trained_tokenizer="clip"), layout)
  export.check_lossless(read(GOLDEN / "clip_tiny.safetensors"), layout)
  assert export.default_layout(read(GOLDEN / "clip_tiny.safetensors")) == "clip"


@pytest.mark.parametrize("end_token", [2, 99])
def test_end_token_that_was_read_is_exported(tmp_path, end_token):
  weights = read(GOLDEN / "clip_tiny.safetensors")
  hints = dataclasses.replace(weights.hints, end_token=end_token)
  export.export_weights(dataclasses.replace(weights, hints=hints), tmp_path / "a", "clip")
  # A file keeps it for the next folder.
  export.export_weights(sources.read_weights(str(tmp_path / "a")), tmp_path / "b.safetensors", "clip")
  export.export_weights(sources.read_weights(str(tmp_path / "b.safetensors")), tmp_path / "c", "clip")
  for folder in ("a", "c"):
    config = json.loads((tmp_path / folder / "config.json").read_text())
    assert config["text_config"]["eos_token_id"] == end_token


def test_published_tokenizer_is_expressed_by_layout_clip_and_not_replaced_by_clips(tmp_path):
  WordTokenizer.train(["a red square"], 49408).save(tmp_path / "words.json")
  weights = dataclasses.replace(read(GOLDEN / "clip_tiny.safetensors"), tokenizer=str(tmp_path / "words.json"))
  weights.config.text.vocab_size = 49408  # as many ids as CLIP's vocabulary
  weights.params["text/token_embedding"] = np.ones((49408, 48), np.float32)
  assert export.default_layout(weights) == "clip"
  with pytest.raises(UserError, match="layout 'openclip' cannot express its own tokenizer"):
    export.check_lossless(weights, "openclip")
  export.export_weights(weights, tmp_path / "out", "clip")
  export.export_weights(weights, tmp_path / "out.safetensors", "clip")
  folder = sources.read_weights(str(tmp_path / "out"))
  assert load_model.tokenizer_name(folder) == str(tmp_path / "out" / "tokenizer.json")
  assert not load_model.tokenizer_name(sources.read_weights(str(tmp_path / "out.safetensors")))


@pytest.mark.parametrize("vocab_size", [60, 100])
def test_vocabulary_larger_than_the_tokenizer_pools_at_the_largest_id(tmp_path, vocab_size):
  WordTokenizer.train(["a red square"], vocab_size).save(tmp_path / "words.json")
  weights = dataclasses.replace(read(GOLDEN / "clip_tiny.safetensors"), tokenizer=str(tmp_path / "words.json"))
  export.export_weights(weights, tmp_path / "out", "clip")
  config = json.loads((tmp_path / "out" / "config.json").read_text())
  assert config["text_config"]["eos_token_id"] == (99 if vocab_size == 100 else 2)


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


def test_weights_with_nan_are_converted_with_a_warning(tmp_path, caplog, monkeypatch):
  monkeypatch.setattr(log, "propagate", True)
  tensors = load_file(GOLDEN / "clip_tiny.safetensors")
  tensors["text_projection.weight"][0, :3] = np.nan
  save_file(tensors, tmp_path / "in.safetensors")
  convert.main([str(tmp_path / "in.safetensors"), str(tmp_path / "out.safetensors")])
  assert "3 values are NaN or infinite: text/projection/kernel (3 of 1536)" in caplog.text


def test_equal_exports_are_byte_identical(tmp_path):
  weights = random_run()
  contents = []
  for number in range(5):  # the order of safetensors' metadata is random
    (path,) = export.export_weights(weights, tmp_path / f"{number}.safetensors", "clip_vip")
    contents.append(path.read_bytes())
  assert len(set(contents)) == 1


@pytest.mark.parametrize("refused", ["model.safetensors", "config.json", "preprocessor_config.json"])
def test_an_export_that_the_disk_refuses_changes_nothing_and_can_be_repeated(tmp_path, monkeypatch, refused):
  target, weights = tmp_path / "folder", read(GOLDEN / "clip_tiny.safetensors")
  path_open = pathlib.Path.open

  def full_open(path, *args, **options):
    if path.name.startswith(f".{refused}."):
      return path_open(pathlib.Path("/dev/full"), "wb", buffering=0)
    return path_open(path, *args, **options)

  def contents():
    return {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

  def check_refused(weights, **options):
    with monkeypatch.context() as patch:
      patch.setattr(pathlib.Path, "open", full_open)
      with pytest.raises(UserError, match=r"target .* cannot be written \(No space left on device\); free space"):
        export.export_weights(weights, target, "clip", **options)

  check_refused(weights)
  assert not contents()
  export.export_weights(weights, target, "clip")
  first = contents()
  check_refused(dataclasses.replace(weights, hints=dataclasses.replace(weights.hints, crop="center")), overwrite=True)
  assert contents() == first
