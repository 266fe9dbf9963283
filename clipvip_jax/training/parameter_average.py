"""Exponential moving average of the trained parameters, in float32: `train.ema`.

The average starts as a copy of the initial parameters. After update t = 1, 2, ... it becomes

    d * average + (1 - d) * parameters,  d = min(train.ema, (1 + t) / (10 + t)),

as in TensorFlow's ExponentialMovingAverage: the smaller decay of the first updates forgets the initial parameters, so
that no correction of a bias is needed. The decay depends on the update alone, not on the length of the run.
"""

import jax
import jax.numpy as jnp
import optax
from flax import traverse_util
from ml_collections import ConfigDict

from clipvip_jax.runs.train_state import AveragedTrainState, TrainState
from clipvip_jax.training.optimizer import is_frozen


def start_average(state: TrainState, config: ConfigDict) -> TrainState:
  """Adds the average of a new run to its state; returns the state itself where `train.ema` is 0.

  Args:
    state: with the initial parameters.
    config: the whole configuration.
  """
  if not config.train.ema:
    return state
  average = _trained(state.params, config)
  return AveragedTrainState(
    state.step, state.params, state.opt_state, jax.tree.map(lambda x: x.astype(jnp.float32), average)
  )


def update_average(state: TrainState, config: ConfigDict) -> TrainState:
  """Updates the average with the parameters of a state after an update; arguments are those of `start_average`."""
  if not isinstance(state, AveragedTrainState):
    return state
  step_size = jnp.maximum(1 - config.train.ema, 9 / (10 + state.step))  # 1 - d
  average = optax.incremental_update(_trained(state.params, config), state.average, step_size)
  return state.replace(average=average)


def _trained(params: optax.Params, config: ConfigDict) -> optax.Params:
  """Returns the parameters that are not frozen."""
  flat = traverse_util.flatten_dict(params, sep="/")
  trained = {name: x for name, x in flat.items() if not is_frozen(name, config.optimizer.frozen)}
  return traverse_util.unflatten_dict(trained, sep="/")
