"""Sizes of a run's model, taken from the weights that it starts from."""

import json
import shutil

import jax
import large_clip
import numpy as np
import pytest
import tiny
from project_paths import GOLDEN
from safetensors.numpy import load_file, save_file
from small_runs import config

from clipvip_jax.configs import post_pretrain
from clipvip_jax.runs import checkpoint
from clipvip_jax.training import setup, trainer
from clipvip_jax.training.initial_state import load_initial_weights
from clipvip_jax.training.model_sizes import fill_sizes
from clipvip_jax.utils import config_tree
from clipvip_jax.utils.errors import UserError
from clipvip_jax.weights import export, sources

VIP, CLIP = (str(GOLDEN / name) for name in ("vip_tiny.safetensors", "openclip_tiny.safetensors"))


def recipe(source, variant="", **changes):
  value = post_pretrain.get_config(variant)
  with value.unlocked():
    value.update_from_flattened_dict({"init_from": source, "sizes_from_weights": True, **changes})
  return value.lock()


def test_sizes_of_the_weights_replace_those_of_the_recipe():
  original = recipe(VIP)
  filled = fill_sizes(original)
  expected = tiny.config()
  for name in ("image_size", "patch_size", "embed_dim", "activation"):
    assert filled.model[name] == expected[name]
  # Heads are not in the file: 64 channels each.
  assert filled.model.vision.to_dict() == {**expected.vision.to_dict(), "heads": 1}
  assert filled.model.text.to_dict() == {**expected.text.to_dict(), "heads": 1}
  assert filled.model.dtype == "bfloat16" and filled.is_locked
  assert original.model == post_pretrain.get_config().model


def test_a_plain_clip_leaves_proxies_to_the_recipe():
  filled = fill_sizes(recipe(CLIP, "proxies_7"))
  assert (filled.model.vision.added_proxies, filled.model.vision.time_positions) == (7, 12)
  assert (filled.model.vision.width, filled.model.activation) == (64, "gelu")


@pytest.mark.parametrize(
  ("variant", "halves"), [("frozen_lower", True), ("own_videos,frozen_lower", True), ("", False)]
)
def test_the_lower_half_is_that_of_the_weights(tmp_path, variant, halves):
  filled = fill_sizes(recipe(VIP, variant), tmp_path)
  assert filled.model.vision.layers == 2
  blocks = [name for name in filled.optimizer.frozen if "/block_" in name]
  assert blocks == ["vision/transformer/block_0/", "text/transformer/block_0/"] * halves
  config_tree.write_json(tmp_path / "config.json", config_tree.to_json_dict(filled))
  assert fill_sizes(recipe(VIP, variant), tmp_path) == filled
  own = recipe(VIP, variant, **{"optimizer.frozen": ("text/",)})
  assert tuple(fill_sizes(own).optimizer.frozen) == ("text/",)


def test_without_the_field_sizes_are_those_of_the_recipe():
  original = recipe("gone.safetensors", sizes_from_weights=False)
  assert fill_sizes(original) is original


def test_sizes_from_weights_need_weights():
  with pytest.raises(UserError, match=r"sizes_from_weights=True needs weights; set --config\.init_from=SOURCE"):
    fill_sizes(recipe(""))


def test_a_run_that_resumes_keeps_its_sizes_without_its_weights(tmp_path):
  weights = tmp_path / "weights.safetensors"
  shutil.copy(VIP, weights)
  filled = fill_sizes(recipe(str(weights)), tmp_path)
  weights.unlink()
  config_tree.write_json(tmp_path / "config.json", config_tree.to_json_dict(filled))
  assert fill_sizes(recipe(str(weights)), tmp_path) == filled
  (tmp_path / "config.json").write_text("{")
  with pytest.raises(UserError, match=r"weights\.safetensors"):
    fill_sizes(recipe(str(weights)), tmp_path)


@pytest.mark.parametrize("model", ["b32", None, {}, {"vision": 5}, {"image_size": "64"}, {"vision": {}}])
def test_a_run_whose_recorded_sizes_were_edited_has_those_of_its_weights(tmp_path, model):
  filled = fill_sizes(recipe(VIP))
  recorded = config_tree.to_json_dict(filled)
  recorded["model"] = {**recorded["model"], **model} if model and isinstance(model, dict) else model
  config_tree.write_json(tmp_path / "config.json", recorded)
  assert fill_sizes(recipe(VIP), tmp_path) == filled


def test_weights_of_another_size_are_refused_by_the_fields_that_differ(corpora, tmp_path):
  source = str(tmp_path / "small.safetensors")
  tensors = {name: x for name, x in load_file(CLIP).items() if not name.startswith("visual.transformer.resblocks.1")}
  save_file(tensors, source)
  changes = {"model.patch_size": 8, "model.vision.width": 64, "model.text.width": 48}
  components = setup.prepare(config(corpora, init_from=source, **changes), tmp_path / "run")
  message = (
    r"small\.safetensors' does not fit config\.model: its weights have text\.vocab_size=100, not 512, vision\.mlp=128,"
    r" not 64, text\.layers=2, not 1, text\.mlp=96, not 64; use the variant of their size .*sizes_from_weights=True$"
  )
  with pytest.raises(UserError, match=message):
    load_initial_weights(components.config, components.workdir)


def test_stated_heads_that_differ_are_refused(corpora, tmp_path):
  weights = sources.read_weights(CLIP)
  source = tmp_path / "weights"
  export.export_weights(weights, source, "openclip")
  components = setup.prepare(config(corpora, init_from=str(source), sizes_from_weights=True, **VOCABULARY), tmp_path)
  with components.config.unlocked():
    components.config.model.vision.heads = 2
  with pytest.raises(UserError, match=r"its weights have vision\.heads=1, not 2; use"):
    load_initial_weights(components.config, components.workdir)


VOCABULARY = {"data.text_length": 16}


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["clip", "openclip"])
def test_large_weights_pass_through_a_post_pretraining_step_and_back(corpora, tmp_path, layout):
  """L/14's widths with two blocks per tower, in HuggingFace's and OpenCLIP's layout, on images of 42 x 42 pixels."""
  tensors = large_clip.openclip_tensors("l14", layers=2, vocab_size=512)
  tensors["visual.positional_embedding"] = tensors["visual.positional_embedding"][: 1 + 3 * 3]
  save_file(tensors, tmp_path / "l14.safetensors")
  original = sources.read_weights(str(tmp_path / "l14.safetensors"))
  export.export_weights(original, tmp_path / "weights", layout)
  changes = {
    **{"init_from": str(tmp_path / "weights"), "sizes_from_weights": True, "optimizer.learning_rate": 5e-6},
    **{"mesh.data": 1, "mesh.fsdp": 8},  # one copy of the training state
    **{"data.num_frames": 2, "train.batch_size": 8, "train.num_steps": 1, "evaluate.batch_size": 8},
  }
  results = trainer.train(config(corpora, **changes), tmp_path / "run")
  assert results["config"]["model"]["vision"]["width"] == 1024
  trained = sources.read_weights(str(tmp_path / "run"))
  params, _ = checkpoint.read_params(tmp_path / "run" / "checkpoints")
  assert sum(x.size for x in jax.tree.leaves(params)) == sum(x.size for x in original.params.values()) + 9 * 1024
  back = {name: x for name, x in trained.params.items() if name in original.params}
  assert back.keys() == original.params.keys()
  export.export_weights(sources.Weights("back", back, original.config, True), tmp_path / "back", layout)
  name = export.LAYOUTS[layout][0]
  before, after = load_file(tmp_path / "weights" / name), load_file(tmp_path / "back" / name)
  assert before.keys() == after.keys()
  for key, x in before.items():
    if key != "logit_scale":  # which starts at another value
      # Adam's first update is the learning rate in each direction, and weight decay is far below it.
      np.testing.assert_allclose(after[key], x, atol=1.1 * 5e-6 + 1e-7, err_msg=key)
  assert any(np.any(after[key] != x) for key, x in before.items())
  assert json.loads((tmp_path / "run" / "config.json").read_text())["sizes_from_weights"] is True
