"""Eight simulated devices, in every arrangement, against one: the same losses, and the same parameters in the end."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import traverse_util
from jax.sharding import AxisType, Mesh, PartitionSpec
from numeric import assert_close

from clipvip_jax.distributed import sharding
from clipvip_jax.runs.train_state import TrainState
from clipvip_jax.training import optimizer
from clipvip_jax.training.losses import LOSSES
from clipvip_jax.training.train_step import jit_train_step
from clipvip_jax.utils.errors import UserError
from configs import common

STEPS = 5
SHAPES = [shape for shape in itertools.product((1, 2, 4, 8), repeat=3) if np.prod(shape) == 8]


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


def configuration(accumulate=1, **model):
  """Two blocks a tower, one of each kind, whose eight heads any tensor axis can share."""
  config = common.base()
  config.model = tiny.config(**model)
  for tower in (config.model.vision, config.model.text):
    tower.heads, tower.layers = 8, 2
  config.optimizer = tiny.optimizer_config()
  config.train.num_microbatches = accumulate
  return config


@functools.cache
def trained(shape, loss="vs", accumulate=1, patch_dropout=0.0):
  """(losses of STEPS steps, the parameters then)."""
  config = configuration(accumulate, patch_dropout=patch_dropout)
  model, mesh = tiny.clip_vip.from_config(config.model), mesh_of(*shape)
  chain, rate = optimizer.from_config(config.optimizer, STEPS)
  params = {**tiny.random_params(model), "logit_scale": np.float32(2.0)}

  def first(params):
    return TrainState(jnp.int32(0), params, chain.init(params))

  shapes = jax.eval_shape(first, params)
  step = jit_train_step(config, model, LOSSES[loss], chain, rate, mesh, shapes)
  state = jax.jit(first, out_shardings=sharding.state_shardings(mesh, shapes))(params)
  losses = []
  for n in range(STEPS):
    sharded = sharding.shard_batch(mesh, batch(n))
    assert len(sharded["video"].addressable_shards) == np.prod(shape)
    state, metrics = step(state, sharded)
    losses.append(float(metrics["loss"]))
  assert jax.tree.map(lambda x: x.sharding, state) == sharding.state_shardings(mesh, state), (
    "a step leaves all where it was"
  )
  return losses, traverse_util.flatten_dict(jax.device_get(state.params), sep="/")


def assert_same(found, expected):
  assert_close(found[0], expected[0], 1e-5, "losses")
  largest = max(np.abs(x).max() for x in expected[1].values())
  for name, x in expected[1].items():
    assert np.abs(found[1][name] - x).max() <= 1e-5 * largest, name


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
def test_every_mesh_of_eight_devices_equals_one_device(shape):
  assert_same(trained(shape), trained((1, 1, 1)))


def test_accumulation_on_a_mesh_equals_one_device_at_once():
  assert_same(trained((2, 2, 2), "vsc_fc", accumulate=2), trained((1, 1, 1), "vsc_fc"))


def test_which_patches_are_left_out_does_not_depend_on_the_mesh():
  assert_same(trained((4, 2, 1), patch_dropout=0.5), trained((1, 1, 1), patch_dropout=0.5))


def test_every_large_parameter_of_b32_is_split_and_small_ones_are_whole():
  shapes = traverse_util.flatten_dict(tiny.clip_vip.parameter_shapes(common.base().model), sep="/")
  placed = {name: sharding.partition_spec(name, x.shape, mesh_of(1, 4, 2)) for name, x in shapes.items()}
  whole = {name: x.shape for name, x in shapes.items() if placed[name] == PartitionSpec() and x.size > 50_000}
  assert not whole
  assert placed["vision/transformer/block_3/mlp/down/kernel"] == PartitionSpec("tensor", "fsdp")
  assert placed["vision/transformer/block_3/mlp/down/bias"] == PartitionSpec()
  on_each = sum(x.size / np.prod([mesh_of(1, 4, 2).shape[a] for a in placed[name] if a]) for name, x in shapes.items())
  total = sum(x.size for x in shapes.values())
  assert on_each < 0.2 * total  # an eighth of the blocks, a quarter of the embeddings of tokens


@pytest.mark.parametrize(
  ("asked", "found"),
  [((-1, 1, 1), (8, 1, 1)), ((-1, 2, 2), (2, 2, 2)), ((1, -1, 4), (1, 2, 4)), ((2, 4, 1), (2, 4, 1))],
)
def test_what_is_left_of_the_devices(asked, found):
  shape = sharding.mesh_shape(dict(zip(sharding.AXES, asked, strict=True)), 8)
  assert tuple(shape.values()) == found


@pytest.mark.parametrize("asked", [(-1, 3, 1), (2, 2, 1), (16, 1, 1), (0, 1, 1), (-1, -1, 1), (-2, 1, 1)])
def test_a_mesh_that_does_not_fit_the_devices_is_refused(asked):
  with pytest.raises(UserError, match=r"mesh.data=.*, mesh.fsdp=.*, mesh.tensor=.*(8 devices|at least 1)"):
    sharding.mesh_shape(dict(zip(sharding.AXES, asked, strict=True)), 8)


@pytest.mark.parametrize("size", [0, 7, 12])
def test_a_batch_that_the_devices_cannot_share_is_refused_with_sizes_that_they_can(size):
  shape = {"data": 4, "fsdp": 2, "tensor": 1}
  with pytest.raises(UserError, match=r"train.batch_size=.*8 devices; use 8 or 16"):
    sharding.check_batch_size(size, "train.batch_size", shape)
