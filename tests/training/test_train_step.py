"""Eight training steps of the public implementation, repeated."""

import jax
import numpy as np
import pytest
import tiny
from flax import traverse_util
from numeric import assert_close

from clipvip_jax.distributed import sharding
from clipvip_jax.runs.train_state import TrainState
from clipvip_jax.training import optimizer
from clipvip_jax.training.losses import LOSSES
from clipvip_jax.training.train_step import init_state, make_train_step

STEPS = 8


def batch(data, step, padding=0):
  """The reference's six clips, and `padding` more that have no text and so change nothing."""
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
  """(state, metrics) after each step, of one device and of a mesh of all three axes."""
  data, model = golden("train.npz"), tiny.model()
  mesh = request.param and sharding.make_mesh(dict(zip(sharding.AXES, request.param, strict=True)))
  chain, rate = optimizer.from_config(tiny.optimizer_config(), STEPS)
  params = tiny.params(golden)
  params["logit_scale"] = np.float32(4.60)
  state = TrainState(np.int32(0), params, chain.init(params))
  placed = mesh and sharding.state_shardings(mesh, state)
  split = mesh and sharding.batch_sharding(mesh)
  step = jax.jit(
    make_train_step(model, LOSSES["vsc_fc"], chain, rate, mesh=mesh),
    in_shardings=(placed, split),
    out_shardings=mesh and (placed, sharding.replicated(mesh)),
  )
  found = []
  for n in range(STEPS):
    found.append(step(found[-1][0] if found else state, batch(data, n, padding=2 if mesh else 0)))
  return found


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


def test_gradients_of_the_first_step_equal_the_reference_name_by_name(golden, steps):
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


def test_a_frozen_logit_scale_stays():
  config = tiny.optimizer_config()
  config.frozen = ("logit_scale",)
  chain, rate = optimizer.from_config(config, STEPS)
  model = tiny.model()
  step = jax.jit(make_train_step(model, LOSSES["fc"], chain, rate, frozen=config.frozen))
  before = init_state(model, chain, tiny.config(), 0)
  rng = np.random.default_rng(0)
  frames = {"frame": rng.normal(size=(4, 32, 32, 3)).astype(np.float32)}
  captions = {"caption": rng.integers(1, 99, (4, 8)).astype(np.int32), "caption_mask": np.ones(4, bool)}
  after, _ = step(before, {**frames, **captions})
  assert after.params["logit_scale"] == before.params["logit_scale"]


def test_patches_are_drawn_only_where_some_are_left_out():
  chain, rate = optimizer.from_config(tiny.optimizer_config(), 8)

  def draws(patch_dropout, whole_clips):
    model = tiny.model(patch_dropout=patch_dropout)
    step = make_train_step(model, LOSSES["fc"], chain, rate, whole_clips=whole_clips)
    state = jax.eval_shape(lambda: init_state(model, chain, tiny.config(), 0))
    shapes = {"frame": ((4, 32, 32, 3), np.float32), "caption": ((4, 8), np.int32), "caption_mask": ((4,), bool)}
    made = jax.make_jaxpr(step)(state, {name: jax.ShapeDtypeStruct(*x) for name, x in shapes.items()})
    return str(made).count("random_bits")

  assert [draws(0.5, False), draws(0.5, True), draws(0.0, False)] == [1, 0, 0]
