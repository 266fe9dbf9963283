"""The training state."""

import flax.struct
import optax
from jaxtyping import Array, Int

from clipvip_jax.models.clip_vip import Params


class TrainState(flax.struct.PyTreeNode):
  """Everything that a training step changes and a checkpoint holds. `step` counts the completed updates."""

  step: Int[Array, ""]
  params: Params
  opt_state: optax.OptState
