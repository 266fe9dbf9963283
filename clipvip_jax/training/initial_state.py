"""Initial training state: the latest checkpoint, or initial weights and random parameters."""

import pathlib
from collections.abc import Mapping

import jax
import numpy as np
from flax import traverse_util
from ml_collections import ConfigDict

from clipvip_jax.models import clip_vip
from clipvip_jax.runs import checkpoint, initial_weights
from clipvip_jax.runs.checkpoint import Checkpoints
from clipvip_jax.runs.train_state import TrainState
from clipvip_jax.training.parameter_average import start_average
from clipvip_jax.training.setup import Components
from clipvip_jax.training.train_step import init_state
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import log
from clipvip_jax.weights import load_params


def load_initial_weights(config: ConfigDict, workdir: pathlib.Path) -> dict[str, np.ndarray]:
  """Loads the weights of config.init_from and checks them against the model, unless the run has a checkpoint.

  Args:
    config: of `setup.check_config`.
    workdir: the run's folder.

  Returns:
    {parameter name: array}; {} where config.init_from is empty or there is a checkpoint.

  Raises:
    UserError: the weights cannot be read, do not fit the model, or are others than the run started from.
  """
  init_from = config.init_from
  if not init_from or checkpoint.has_checkpoint(workdir / "checkpoints"):
    return {}
  shapes = clip_vip.parameter_shapes(config.model)
  weights = load_params.load_params(init_from, shapes, config.data.crop, config.model)
  initial_weights.check_initial_weights(workdir, init_from, weights)
  return weights


def restore_or_initialize(
  components: Components, checkpoints: Checkpoints, weights: Mapping[str, np.ndarray]
) -> tuple[TrainState, int]:
  """Restores the latest checkpoint; initializes the state where there is none.

  Args:
    components: of the run.
    checkpoints: of the run.
    weights: {parameter name: array} that replace random parameters.

  Returns:
    (state on the mesh, number of updates done).

  Raises:
    UserError: no checkpoint can be restored, or the newest is of a longer run.
  """
  restored = checkpoints.restore_latest(components.abstract_state)
  if restored is None:
    # The checkpoint for which no weights were loaded may have been deleted since.
    return _initialize(components, weights or load_initial_weights(components.config, components.workdir)), 0
  state, position = restored
  step = position["next_record"] // components.config.train.batch_size
  if step > components.total_steps:
    raise UserError(
      f"{components.workdir}: the checkpoint of step {step} is beyond the end of the run, step"
      f" {components.total_steps}; delete or move it, or increase train.num_steps"
    )
  log.info("resuming from step %d (%s)", step, f"{components.folder.address}/checkpoints/{step}")
  return state, step


def _initialize(components: Components, weights: Mapping[str, np.ndarray]) -> TrainState:
  """Creates the state on the mesh. Each device holds its parameters once: `weights` are donated."""
  config = components.config
  shardings = jax.tree.map(lambda x: x.sharding, components.abstract_state)

  def initialize(weights: Mapping[str, jax.Array]) -> TrainState:
    state = init_state(components.model, components.optimizer, config.model, config.seed)
    # The compiler removes the random initialization of parameters that are replaced.
    return start_average(state.replace(params=load_params.merge(weights, state.params)), config)

  sharding_by_name = traverse_util.flatten_dict(shardings.params, sep="/")
  on_devices = load_params.to_devices(weights, {name: sharding_by_name[name] for name in weights})
  state = jax.jit(initialize, out_shardings=shardings, donate_argnums=0)(on_devices)
  if weights:
    if jax.process_index() == 0:
      initial_weights.record_initial_weights(components.workdir, config.init_from, weights)
    log.info("initialized from %s", config.init_from)
  return state
