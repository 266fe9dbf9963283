"""Training steps: eight steps of the public implementation, frozen parameters, patch dropout, microbatches."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import traverse_util
from numeric import assert_close

from clipvip_jax.configs import post_pretrain
from clipvip_jax.distributed import sharding
from clipvip_jax.input_pipeline.preprocessing import MEAN, STD
from clipvip_jax.runs.train_state import TrainState
from clipvip_jax.training import optimizer
from clipvip_jax.training.losses import LOSSES
from clipvip_jax.training.train_step import (
  init_state,
  make_train_step,
  merge_microbatches,
  num_dropout_steps,
  split_microbatches,
)

STEPS = 8


def batch(data, step, padding=0):
  """The six clips of the reference, and `padding` clips without text, which change nothing."""
  video = tiny.channels_last(data[f"{step}/video"])
  everything = np.ones(len(video), bool)
  found = {
    "video": video,
    "frame": video[:, int(data["frame_index"])],
    "subtitle": data[f"{step}/subtitle_ids"].astype(np.int32),
    "caption": data[f"{step}/caption_ids"].astype(np.int32),
    "subtitle_mask": everything,
    "caption_mask": everything,
  }
  return {name: np.concatenate([x, np.zeros_like(x[:padding])]) for name, x in found.items()}


@pytest.fixture(scope="module", params=[None, (2, 2, 2)], ids=["one_device", "2x2x2"])
def steps(request, golden):
  """(state, metrics) after each step, on one device and on a mesh with three axes."""
  data, model = golden("train.npz"), tiny.model()
  mesh = request.param and sharding.make_mesh(dict(zip(sharding.AXES, request.param, strict=True)))
  adamw, lr_schedule = optimizer.from_config(tiny.optimizer_config(), STEPS)
  params = tiny.params(golden)
  params["logit_scale"] = np.float32(4.60)
  state = TrainState(np.int32(0), params, adamw.init(params))
  shardings = mesh and sharding.state_shardings(mesh, state)
  batch_sharding = mesh and sharding.batch_sharding(mesh)
  step = jax.jit(
    make_train_step(model, LOSSES["vsc_fc"], adamw, lr_schedule, mesh=mesh),
    in_shardings=(shardings, batch_sharding),
    out_shardings=mesh and (shardings, sharding.replicated(mesh)),
  )
  found = []
  for n in range(STEPS):
    found.append(step(found[-1][0] if found else state, batch(data, n, padding=2 if mesh else 0)))
  return found


@pytest.mark.slow
def test_eight_steps_equal_the_reference(golden, steps):
  data = golden("train.npz")
  for n, (_, metrics) in enumerate(steps):
    assert_close(metrics["loss"], data[f"{n}/loss"], 2e-5, f"loss of step {n}")
    assert_close(metrics["grad_norm"], data[f"{n}/grad_norm"], 2e-5, f"gradient norm of step {n}")
    assert_close(metrics["learning_rate"], data[f"{n}/lr"], 2e-5, f"learning rate of step {n}")
    assert_close(metrics["logit_scale"], data[f"{n}/logit_scale"], 2e-5, f"logit scale after step {n}")
  ours = traverse_util.flatten_dict(steps[-1][0].params, sep="/")
  final = traverse_util.flatten_dict(tiny.params(golden, "train_final.safetensors"), sep="/")
  assert set(ours) == set(final)
  for name, expected in final.items():
    error = np.abs(np.asarray(ours[name], np.float64) - expected).max()
    assert error <= 1e-5, f"{name}: off by {error:.3g}"


@pytest.mark.slow
def test_gradients_of_the_first_step_equal_the_reference(golden, steps):
  (adam,) = (x for x in steps[0][0].opt_state if isinstance(x, optimizer.AdamState))
  # After one step the first moment is a tenth of the gradient; the reference's, too, is that after clipping.
  grads = jax.tree.map(lambda x: np.asarray(x) / (1 - tiny.optimizer_config().b1), adam.first)
  ours = traverse_util.flatten_dict(grads, sep="/")
  expected = tiny.params(golden, "train_step0_grads.safetensors")
  expected = traverse_util.flatten_dict(expected, sep="/")
  assert set(ours) == set(expected)
  for name, value in expected.items():
    if name.endswith("key/bias"):
      # Exactly zero, since softmax ignores a shift; what both have is rounding.
      largest = np.abs(expected[name.replace("/bias", "/kernel")]).max()
      assert max(np.abs(ours[name]).max(), np.abs(value).max()) <= 1e-5 * largest, name
    else:
      assert_close(ours[name], value, 2e-5, name)


@pytest.mark.unoptimized
def test_a_frozen_logit_scale_does_not_change():
  config = tiny.optimizer_config()
  config.frozen = ("logit_scale",)
  adamw, lr_schedule = optimizer.from_config(config, STEPS)
  model = tiny.model()
  step = jax.jit(make_train_step(model, LOSSES["fc"], adamw, lr_schedule, frozen=config.frozen))
  params = tiny.random_params(model)
  before = TrainState(np.int32(0), params, adamw.init(params))
  rng = np.random.default_rng(0)
  frames = {"frame": rng.normal(size=(4, 32, 32, 3)).astype(np.float32)}
  captions = {"caption": rng.integers(1, 99, (4, 8)).astype(np.int32), "caption_mask": np.ones(4, bool)}
  after, _ = step(before, {**frames, **captions})
  assert after.params["logit_scale"] == before.params["logit_scale"]


class LinearTowers:
  """Towers of one matrix each, in place of a model that takes a minute to compile."""

  vision = types.SimpleNamespace(patch_dropout=0.0)

  def apply(self, variables, inputs, method, rngs):
    params = variables["params"]
    features = {"embed_video": lambda: inputs.reshape(len(inputs), -1), "embed_text": lambda: jax.nn.one_hot(inputs, 8)}
    features = features[method]() @ params[method]
    features = features if method == "embed_video" else features.mean(1)
    return features / jnp.linalg.norm(features, axis=-1, keepdims=True)


@pytest.mark.parametrize("num_microbatches", [1, 2])
def test_a_step_on_uint8_pixels_equals_the_step_on_the_same_pixels_normalised(num_microbatches):
  rng = np.random.default_rng(0)
  sizes = {"embed_video": 2 * 4 * 4 * 3, "embed_text": 8}
  params = {name: rng.normal(size=(size, 6)).astype(np.float32) for name, size in sizes.items()}
  params["logit_scale"] = np.float32(1)
  adamw, lr_schedule = optimizer.from_config(tiny.optimizer_config(), STEPS)
  state = TrainState(np.int32(0), params, adamw.init(params))
  levels = rng.integers(0, 256, (4, 2, 4, 4, 3), dtype=np.uint8)
  texts = {"subtitle": rng.integers(8, size=(4, 5)), "subtitle_mask": np.ones(4, bool)}
  step = jax.jit(make_train_step(LinearTowers(), LOSSES["vs"], adamw, lr_schedule, num_microbatches=num_microbatches))
  after, metrics = step(state, {"video": levels, **texts})
  floats = ((levels / 255 - MEAN) / STD).astype(np.float32)
  expected, expected_metrics = step(state, {"video": floats, **texts})
  assert metrics["grad_norm"] > 0
  jax.tree.map(assert_close, (metrics, after.params), (expected_metrics, expected.params))


@pytest.mark.slow
def test_draws_random_patches_only_with_patch_dropout():
  adamw, lr_schedule = optimizer.from_config(tiny.optimizer_config(), 8)

  def num_draws(patch_dropout, dropout_seed):
    model = tiny.model(patch_dropout=patch_dropout)
    step = make_train_step(model, LOSSES["fc"], adamw, lr_schedule, dropout_seed=dropout_seed)
    state = jax.eval_shape(lambda: init_state(model, adamw, tiny.config(), 0))
    shapes = {"frame": ((4, 32, 32, 3), np.float32), "caption": ((4, 8), np.int32), "caption_mask": ((4,), bool)}
    made = jax.make_jaxpr(step)(state, {name: jax.ShapeDtypeStruct(*x) for name, x in shapes.items()})
    return str(made).count("random_bits")

  assert [num_draws(0.5, 0), num_draws(0.5, None), num_draws(0.0, 0)] == [1, 0, 0]


def test_microbatches_take_clips_of_every_device_and_merge_in_order():
  batch = {"ids": np.arange(12).reshape(12, 1), "mask": np.arange(12) % 2 == 0}
  microbatches = split_microbatches(batch, 3)
  assert microbatches["ids"].shape == (3, 4, 1)
  # Two devices hold clips 0 to 5 and 6 to 11: each microbatch has two clips of both.
  assert microbatches["ids"][0].ravel().tolist() == [0, 3, 6, 9]
  jax.tree.map(np.testing.assert_array_equal, merge_microbatches(microbatches), batch)


@pytest.mark.parametrize(
  ("changes", "expected"),
  [({}, 180), ({"train.unmasked_fraction": 0.0}, 200), ({"model.patch_dropout": 0.0}, 0)],
)
def test_the_last_fraction_of_a_run_with_patch_dropout_sees_all_patches(changes, expected):
  config = post_pretrain.get_config("patch_dropout")
  config.update_from_flattened_dict(changes)
  assert num_dropout_steps(config, 200) == expected
