"""Eight simulated devices against one: the same loss, gradients and update."""

import jax
import numpy as np
import pytest
import tiny
from conftest import assert_close
from flax import traverse_util
from jax.sharding import AxisType, Mesh

from clipvip_jax import optimizer, sharding
from clipvip_jax.errors import UserError
from clipvip_jax.losses import LOSSES
from clipvip_jax.train_step import TrainState, make_train_step


def batch(size=8):
  rng = np.random.default_rng(0)
  return {
    "video": rng.normal(size=(size, 2, 32, 32, 3)).astype(np.float32),
    "frame": rng.normal(size=(size, 32, 32, 3)).astype(np.float32),
    "subtitle": rng.integers(1, 99, (size, 12)).astype(np.int32),
    "caption": rng.integers(1, 99, (size, 12)).astype(np.int32),
    "subtitle_mask": np.arange(size) != 2,
    "caption_mask": np.arange(size) != 5,
  }


def on_devices(golden, count, **model):
  """(loss, gradients up to a factor, updated parameters) of a step on `count` devices."""
  mesh = Mesh(np.array(jax.devices()[:count]), (sharding.DATA,), axis_types=(AxisType.Auto,))
  replicated, split = sharding.on_every_device(mesh), sharding.split_over_batch(mesh)
  chain, rate = optimizer.from_config(tiny.optimizer_config(), 8)
  params = {**tiny.params(golden), "logit_scale": np.float32(2.0)}
  step = jax.jit(
    make_train_step(tiny.model(**model), LOSSES["vsc_fc"], chain, rate),
    in_shardings=(replicated, split),
    out_shardings=replicated,
  )
  sharded = sharding.shard_batch(mesh, batch())
  assert len(sharded["video"].addressable_shards) == count
  state, metrics = step(TrainState(np.int32(0), params, chain.init(params)), sharded)
  (adam,) = (x for x in state.opt_state if isinstance(x, optimizer.AdamState))
  return metrics["loss"], adam.first, state.params  # after one step the first moment is a tenth of the gradient


@pytest.mark.parametrize("model", [{}, {"patch_dropout": 0.5}], ids=["whole", "patch_dropout"])
def test_eight_devices_equal_one(golden, model):
  assert jax.device_count() >= 8, "tests/conftest.py simulates eight devices"
  one, eight = on_devices(golden, 1, **model), on_devices(golden, 8, **model)
  assert_close(eight[0], one[0], 1e-6, "loss")
  for what, a, b in (("gradient", eight[1], one[1]), ("updated", eight[2], one[2])):
    a, b = (traverse_util.flatten_dict(tree, sep="/") for tree in (a, b))
    largest = max(np.abs(x).max() for x in b.values())
    for name, expected in b.items():
      error = np.abs(np.asarray(a[name], np.float64) - expected).max()
      assert error <= 1e-6 * largest, f"{what} of {name}: off by {error:.3g}, largest value {largest:.3g}"


@pytest.mark.parametrize("size", [0, 7, 12])
def test_a_batch_that_the_devices_cannot_share_is_refused_with_sizes_that_they_can(size):
  with pytest.raises(UserError, match=r"train.batch_size=.*8 devices; the nearest sizes are 8 and 16"):
    sharding.check_batch_size(size, "train.batch_size")
