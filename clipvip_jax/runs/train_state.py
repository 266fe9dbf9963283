"""The training state."""

import flax.struct
import optax
from flax import traverse_util
from jaxtyping import Array, Int

from clipvip_jax.models.clip_vip import Params


class TrainState(flax.struct.PyTreeNode):
  """Everything that a training step changes and a checkpoint holds. `step` counts the completed updates."""

  step: Int[Array, ""]
  params: Params
  opt_state: optax.OptState

  @property
  def eval_params(self) -> Params:
    """Parameters to evaluate and to export."""
    return self.params


class AveragedTrainState(TrainState):
  """State of a run with `train.ema`, which evaluates `average`: float32, without frozen parameters."""

  average: Params

  @property
  def eval_params(self) -> Params:
    """Averages of the trained parameters, and the frozen parameters."""
    return replace_averaged(self.params, self.average)


def replace_averaged(params: Params, average: Params) -> Params:
  """Returns `params` with the values of `average`, which may lack parameters; both are nested dictionaries."""
  return traverse_util.unflatten_dict({**traverse_util.flatten_dict(params), **traverse_util.flatten_dict(average)})
