"""Published names and layouts, and starting a model from them."""

import jax
import numpy as np
import pytest
import tiny
from flax import traverse_util
from project_paths import GOLDEN
from safetensors.numpy import load_file, save_file

from clipvip_jax.models import clip_vip
from clipvip_jax.utils.errors import UserError
from clipvip_jax.weights import load_params, names_clip_vip


def flat(tree):
  return traverse_util.flatten_dict(tree, sep="/")


@pytest.mark.parametrize(
  ("name", "overrides"),
  [("vip_tiny.safetensors", {}), ("clip_tiny.safetensors", {"added_proxies": 0, "time_positions": 0})],
)
def test_every_parameter_is_filled_with_its_own_shape(golden, name, overrides):
  expected = flat(tiny.random_params(tiny.model(**overrides)))
  found = flat(tiny.params(golden, name))
  assert {key: x.shape for key, x in found.items()} == {key: x.shape for key, x in expected.items()}


def test_an_unknown_tensor_is_refused_by_name():
  with pytest.raises(UserError, match=r"x\.pt: 1 tensors.*visual\.layer4\.weight \(2, 2\)"):
    names_clip_vip.to_params({"visual.layer4.weight": np.zeros((2, 2))}, "x.pt")


def test_clip_starts_clip_vip_with_its_own_scale_and_keeps_what_clip_lacks():
  random = tiny.random_params(tiny.model())
  source = str(GOLDEN / "clip_tiny.safetensors")
  params = flat(load_params.merge(load_params.load_params(source, random), random))
  assert params["logit_scale"] == np.float32(4.60)
  for name, value in flat(random).items():
    same = np.array_equal(params[name], value)
    constant = name == "logit_scale" or (value.ndim == 1 and not np.any(value != value[0]))
    assert same == (name in load_params.ADDED) or constant, name


def test_a_clip_vip_checkpoint_keeps_its_own_scale(golden):
  random = tiny.random_params(tiny.model())
  params = load_params.merge(load_params.load_params(str(GOLDEN / "vip_tiny.safetensors"), random), random)
  assert params["logit_scale"] == golden("vip_tiny.safetensors")["clipmodel.logit_scale"]


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (lambda t: t.pop("text_projection.weight"), "text/projection/kernel is missing"),
    (
      lambda t: t.update({"text_projection.weight": np.zeros((3, 4), np.float32)}),
      r"is \(4, 3\), the model's is \(48, 32\)",
    ),
    (lambda t: t.update({"vision_model.embeddings.added_cls": np.zeros((5, 64), np.float32)}), r"\(5, 64\)"),
    (
      lambda t: t.update({"text_model.encoder.layers.7.layer_norm1.bias": np.zeros(48, np.float32)}),
      "text/transformer/block_7/attention_norm/bias has no place",
    ),
  ],
)
def test_weights_that_do_not_fit_are_refused_by_name(tmp_path, change, message):
  tensors = load_file(GOLDEN / "clip_tiny.safetensors")
  change(tensors)
  path = tmp_path / "weights.safetensors"
  save_file(tensors, path)
  with pytest.raises(UserError, match=message):
    load_params.load_params(str(path), tiny.random_params(tiny.model()))


def test_weights_fit_another_image_size_and_text_length():
  config = tiny.config(image_size=48)
  config.text.positions = 20
  video, ids = np.zeros((1, 1, 48, 48, 3), np.float32), np.zeros((1, 4), np.int32)
  larger = jax.eval_shape(clip_vip.from_config(config).init, jax.random.key(0), video, ids)["params"]
  loaded = load_params.load_params(str(GOLDEN / "vip_tiny.safetensors"), larger)
  assert loaded["vision/position_embedding"].shape == (1 + 36, 64)
  assert loaded["text/position_embedding"].shape == (20, 48)
