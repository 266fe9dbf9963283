"""The training state: what a step changes and a checkpoint holds."""

from typing import Any

import flax.struct
from jaxtyping import Array, Int


class TrainState(flax.struct.PyTreeNode):
  """What a step changes. `step` counts the updates done."""

  step: Int[Array, ""]
  params: Any
  opt_state: Any
