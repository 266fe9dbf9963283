"""Meshes of eight simulated devices: losses and parameters equal those of one device."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import traverse_util
from jax.sharding import AxisType, Mesh, PartitionSpec
from numeric import assert_close

from clipvip_jax.configs import common
from clipvip_jax.distributed import sharding
from clipvip_jax.runs.train_state import TrainState
from clipvip_jax.training import optimizer
from clipvip_jax.training.losses import LOSSES
from clipvip_jax.training.parameter_average import start_average
from clipvip_jax.training.train_step import jit_train_step
from clipvip_jax.utils.errors import UserError

STEPS = 5
SHAPES = [(8, 1, 1), (1, 8, 1), (1, 1, 8), (2, 2, 2)]  # each axis alone and with both others


def mesh_of(*shape):
  devices = np.array(jax.devices()[: np.prod(shape)]).reshape(shape)
  return Mesh(devices, sharding.AXES, axis_types=(AxisType.Auto,) * 3)


def batch(seed, size=16):
  rng = np.random.default_rng(seed)
  return {
    "video": rng.normal(size=(size, 2, 32, 32, 3)).astype(np.float32),
    "frame": rng.normal(size=(size, 32, 32, 3)).astype(np.float32),
    "subtitle": rng.integers(1, 99, (size, 12)).astype(np.int32),
    "caption": rng.integers(1, 99, (size, 12)).astype(np.int32),
    "subtitle_mask": np.arange(size) % 8 != 2,
    "caption_mask": np.arange(size) % 8 != 5,
  }


def configuration(num_microbatches=1, ema=0.0, **model):
  """Towers of one block with eight heads, which every tensor axis divides."""
  config = common.base()
  config.model = tiny.config(**model)
  for tower in (config.model.vision, config.model.text):
    tower.heads, tower.layers = 8, 1
  config.optimizer = tiny.optimizer_config()
  config.train.num_microbatches, config.train.ema = num_microbatches, ema
  return config


def flat(params):
  return traverse_util.flatten_dict(jax.device_get(params), sep="/")


@functools.cache
def train(shape, loss="vs", num_microbatches=1, patch_dropout=0.0, ema=0.0):
  """Returns (losses of STEPS steps, final parameters, final ones to evaluate, those before and after each step)."""
  config = configuration(num_microbatches, ema, patch_dropout=patch_dropout)
  model, mesh = tiny.clip_vip.from_config(config.model), mesh_of(*shape)
  tx, lr_schedule = optimizer.from_config(config.optimizer, STEPS)
  params = {**tiny.random_params(model), "logit_scale": np.float32(2.0)}
  state = start_average(TrainState(jnp.int32(0), params, tx.init(params)), config)
  abstract_state = jax.eval_shape(lambda: state)
  step = jit_train_step(config, model, LOSSES[loss], tx, lr_schedule, mesh, abstract_state)
  # Copied by a program: the step donates its state, and device_put would share NumPy's memory among the devices.
  state = jax.jit(lambda x: x, out_shardings=sharding.state_shardings(mesh, abstract_state))(state)
  losses, history = [], [flat(state.params)]
  for n in range(STEPS):
    sharded = sharding.shard_batch(mesh, batch(n))
    assert len(sharded["video"].addressable_shards) == np.prod(shape)
    state, metrics = step(state, sharded)
    losses.append(float(metrics["loss"]))
    history.append(flat(state.params))
  assert jax.tree.map(lambda x: x.sharding, state) == sharding.state_shardings(mesh, state), "a step keeps shardings"
  return losses, history[-1], flat(state.eval_params), history


def assert_same(actual, expected):
  assert_close(actual[0], expected[0], 1e-5, "losses")
  largest = max(np.abs(x).max() for x in expected[1].values())
  for name, x in expected[1].items():
    assert np.abs(actual[1][name] - x).max() <= 1e-5 * largest, name


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
def test_meshes_of_eight_devices_equal_one_device(shape):
  assert_same(train(shape), train((1, 1, 1)))


@pytest.mark.slow
def test_gradient_accumulation_on_a_mesh_equals_one_device_without_it():
  losses, params, average, _ = train((2, 2, 2), "vsc_fc", num_microbatches=2, ema=0.4)
  expected = train((1, 1, 1), "vsc_fc", ema=0.4)
  assert_same((losses, params), expected)
  assert_same((losses, average), (expected[0], expected[2]))


@pytest.mark.slow
def test_patch_dropout_is_independent_of_the_mesh():
  assert_same(train((4, 2, 1), patch_dropout=0.5), train((1, 1, 1), patch_dropout=0.5))


@pytest.mark.slow
def test_average_equals_a_numpy_loop_over_the_parameters_of_all_steps():
  _, _, actual, (first, *history) = train((1, 1, 1), "vsc_fc", ema=0.4)
  average = {name: x.astype(np.float64) for name, x in first.items()}
  for n, params in enumerate(history, 1):
    decay = min(0.4, (1 + n) / (10 + n))
    average = {name: decay * x + (1 - decay) * params[name] for name, x in average.items()}
  for name, x in actual.items():
    assert x.dtype == np.float32
    np.testing.assert_allclose(x, average[name], rtol=1e-6, atol=1e-6, err_msg=name)


def test_every_large_parameter_of_b32_is_sharded_and_small_ones_are_replicated():
  mesh = mesh_of(1, 4, 2)
  shapes = traverse_util.flatten_dict(tiny.clip_vip.parameter_shapes(common.base().model), sep="/")
  specs = {name: sharding.partition_spec(name, x.shape, mesh) for name, x in shapes.items()}
  assert not {name: x.shape for name, x in shapes.items() if specs[name] == PartitionSpec() and x.size > 50_000}
  assert specs["vision/transformer/block_3/mlp/down/kernel"] == PartitionSpec("tensor", "fsdp")
  assert specs["vision/transformer/block_3/mlp/down/bias"] == PartitionSpec()
  per_device = sum(x.size / np.prod([mesh.shape[axis] for axis in specs[name] if axis]) for name, x in shapes.items())
  assert per_device < 0.2 * sum(x.size for x in shapes.values())  # 1/8 of the blocks, 1/4 of the token embeddings


@pytest.mark.parametrize(
  ("sizes", "expected"),
  [((-1, 1, 1), (8, 1, 1)), ((-1, 2, 2), (2, 2, 2)), ((1, -1, 4), (1, 2, 4)), ((2, 4, 1), (2, 4, 1))],
)
def test_minus_one_takes_the_remaining_devices(sizes, expected):
  shape = sharding.mesh_shape(dict(zip(sharding.AXES, sizes, strict=True)), 8)
  assert tuple(shape.values()) == expected


@pytest.mark.parametrize("sizes", [(-1, 3, 1), (2, 2, 1), (16, 1, 1), (0, 1, 1), (-1, -1, 1), (-2, 1, 1)])
def test_a_mesh_that_does_not_fit_the_devices_is_refused(sizes):
  fields = ", ".join(f"mesh.{axis}={size}" for axis, size in zip(sharding.AXES, sizes, strict=True))
  with pytest.raises(UserError, match=f"^{fields}(: use sizes of at least 1| does not fit 8 devices; .*product is 8$)"):
    sharding.mesh_shape(dict(zip(sharding.AXES, sizes, strict=True)), 8)


@pytest.mark.parametrize("size", [0, 7, 12])
def test_an_indivisible_batch_is_refused_with_the_nearest_sizes(size):
  shape = {"data": 4, "fsdp": 2, "tensor": 1}
  with pytest.raises(UserError, match=f"train.batch_size={size} is not divisible by 8 devices; use 8 or 16"):
    sharding.check_batch_size(size, "train.batch_size", shape)
