"""Initial parameters where the weights lack some of the model's."""

import dataclasses

import jax
import numpy as np
import pytest
import tiny
from flax import traverse_util
from ml_collections import ConfigDict
from project_paths import GOLDEN
from safetensors.numpy import load_file, save_file

from clipvip_jax.models import clip_vip
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import log
from clipvip_jax.weights import export, load_params, sources
from clipvip_jax.weights.model_config import Hints


def flat(tree):
  return traverse_util.flatten_dict(tree, sep="/")


def weights_of(net):
  flat = traverse_util.flatten_dict(tiny.random_params(net), sep="/")
  flat = {name: np.asarray(x) for name, x in flat.items()}
  return sources.Weights("weights", flat, tiny.config(), is_clip=False)


@pytest.mark.parametrize("embed_dim", [48, 32])
def test_sequence_transformer_starts_as_the_text_towers_first_blocks_of_equal_width(monkeypatch, embed_dim):
  weights = weights_of(tiny.model(embed_dim=embed_dim))
  monkeypatch.setattr(load_params, "read_weights", lambda source: weights)
  net = tiny.model(embed_dim=embed_dim, temporal="sequence", sequence_layers=2)
  loaded = load_params.load_params("weights", tiny.random_params(net))
  sequence = {name: x for name, x in loaded.items() if name.startswith("sequence/")}
  if embed_dim != 48:  # the text tower's width
    assert not sequence
    return
  assert len(sequence) == 2 * 16 + 1
  for name, value in sequence.items():
    np.testing.assert_array_equal(value, weights.params[name.replace("sequence/", "text/")])


def test_trained_sequence_transformer_is_loaded(monkeypatch):
  net = tiny.model(embed_dim=48, temporal="sequence", sequence_layers=2)
  weights = weights_of(net)
  monkeypatch.setattr(load_params, "read_weights", lambda source: weights)
  loaded = load_params.load_params("weights", tiny.random_params(net))
  name = "sequence/transformer/block_0/mlp/up/kernel"
  np.testing.assert_array_equal(loaded[name], weights.params[name])


def test_clip_gets_the_initial_scale_and_parameters_it_lacks_stay_random():
  random = tiny.random_params(tiny.model())
  source = str(GOLDEN / "clip_tiny.safetensors")
  params = flat(load_params.merge(load_params.load_params(source, random), random))
  assert params["logit_scale"] == np.float32(4.60)
  for name, value in flat(random).items():
    same = np.array_equal(params[name], value)
    constant = name == "logit_scale" or (value.ndim == 1 and not np.any(value != value[0]))
    assert same == (name in sources.CLIP_VIP_PARAMS) or constant, name


def test_weights_of_a_run_with_another_crop_are_reported(monkeypatch, caplog):
  net = tiny.model()
  weights = dataclasses.replace(weights_of(net), run=ConfigDict({"data": {"crop": "center"}}))
  monkeypatch.setattr(load_params, "read_weights", lambda source: weights)
  monkeypatch.setattr(log, "propagate", True)
  for crop in ("center", None, "squash"):
    assert not caplog.records
    load_params.load_params("weights", tiny.random_params(net), crop)
  assert "weights was trained with data.crop='center', this run has data.crop='squash'" in caplog.text


def test_clip_vip_checkpoint_keeps_its_scale(golden):
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
      "text/transformer/block_7/attention_norm/bias is not a parameter of the model",
    ),
  ],
)
def test_weights_that_do_not_fit_are_refused_by_parameter_name(tmp_path, change, message):
  tensors = load_file(GOLDEN / "clip_tiny.safetensors")
  change(tensors)
  path = tmp_path / "weights.safetensors"
  save_file(tensors, path)
  with pytest.raises(UserError, match=message):
    load_params.load_params(str(path), tiny.random_params(tiny.model()))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused_with_count_and_parameter(tmp_path, value):
  tensors = load_file(GOLDEN / "vip_tiny.safetensors")
  tensors["clipmodel.text_projection.weight"][0, :3] = value
  tensors["clipmodel.visual_projection.weight"][0, 0] = value
  save_file(tensors, tmp_path / "weights.safetensors")
  message = (
    r"weights\.safetensors: 4 values are NaN or infinite: .*text/projection/kernel \(3 of 1536\).*; use other weights"
  )
  with pytest.raises(UserError, match=message) as refused:
    load_params.load_params(str(tmp_path / "weights.safetensors"), tiny.random_params(tiny.model()))
  assert "vision/projection/kernel (1 of 2048)" in str(refused.value)


def test_only_the_first_parameters_that_are_not_finite_are_listed():
  params = {f"p{i}": np.full(2, np.nan, np.float32) for i in range(300)}
  found = load_params.describe_not_finite({**params, "large": np.full(4, 3e38, np.float32)})
  assert found.startswith("600 values are NaN or infinite: p0 (2 of 2), ") and found.endswith("(2 of 2) and 295 more")


@pytest.mark.parametrize(("changes", "remedy"), [({}, "use complete weights of one CLIP"), ({"remedy": "x"}, "x")])
def test_a_few_of_many_problems_are_listed_with_what_to_do(changes, remedy):
  shapes = tiny.random_params(tiny.model())
  loaded = {name: x for name, x in flat(shapes).items() if name.startswith("text/")}
  count = sum(name not in loaded for name in flat(shapes))
  message = (
    f"does not fit the model of its sizes: (\\S+ is missing; ){{4}}\\S+ is missing and {count - 5} more; {remedy}"
  )
  with pytest.raises(UserError, match=message):
    load_params.check_complete(loaded, shapes, "a.pt", **changes)


@pytest.mark.parametrize("layout", ["clip", "openclip", "file"])
@pytest.mark.parametrize("stated", ["gelu", "quick_gelu"])
def test_weights_of_another_activation_are_refused_if_their_files_state_it(tmp_path, layout, stated):
  weights = sources.read_weights(str(GOLDEN / "clip_tiny.safetensors"), Hints(stated, 4, 4))
  name, layout = ("out.safetensors", "clip") if layout == "file" else ("out", layout)
  export.export_weights(weights, tmp_path / name, layout)
  params, source = tiny.random_params(tiny.model()), str(tmp_path / name)
  load_params.load_params(source, params, model=tiny.config(activation=stated))
  other = {"gelu": "quick_gelu", "quick_gelu": "gelu"}[stated]
  with pytest.raises(UserError, match=f"its weights have activation={stated}, not {other}; use .*sizes_from_weights"):
    load_params.load_params(source, params, model=tiny.config(activation=other))


def test_an_activation_that_no_file_states_is_reported(caplog, monkeypatch):
  monkeypatch.setattr(log, "propagate", True)
  params, source = tiny.random_params(tiny.model()), str(GOLDEN / "openclip_tiny.safetensors")
  load_params.load_params(source, params, model=tiny.config(activation="gelu"))
  assert "this run computes" not in caplog.text
  load_params.load_params(source, params, model=tiny.config(activation="quick_gelu"))
  assert "this run computes model.activation=quick_gelu, which no file states" in caplog.text


def test_position_embeddings_are_resized_to_the_model():
  config = tiny.config(image_size=48)
  config.text.positions = 20
  video, ids = np.zeros((1, 1, 48, 48, 3), np.float32), np.zeros((1, 4), np.int32)
  larger = jax.eval_shape(clip_vip.from_config(config).init, jax.random.key(0), video, ids)["params"]
  loaded = load_params.load_params(str(GOLDEN / "vip_tiny.safetensors"), larger)
  assert loaded["vision/position_embedding"].shape == (1 + 36, 64)
  assert loaded["text/position_embedding"].shape == (20, 48)
