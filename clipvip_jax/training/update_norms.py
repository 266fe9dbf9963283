"""Norms of parameters and updates, which show in the curves of a run whether its learning rate suits its parameters.

They are computed from the state after a step, by a program of their own and only where they are logged: the step
computes nothing in addition.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from clipvip_jax.distributed import sharding
from clipvip_jax.runs.metrics_history import UPDATE_RATIO
from clipvip_jax.runs.train_state import TrainState
from clipvip_jax.training.optimizer import last_update
from clipvip_jax.utils.param_names import param_name

Norms = dict[str, Float[Array, ""]]


def update_norms(config: ConfigDict, lr_schedule: optax.Schedule, state: TrainState) -> Norms:
  """Computes l2 norms for the metrics of a step.

  Args:
    config: `config.optimizer`.
    lr_schedule: of the configuration.
    state: after the step.

  Returns:
    `param_norm` and `update_norm` of all modules, and `update_ratio/MODULE`, the quotient of both, of each: text,
    vision and others, but not the logit scale, which is one number. Frozen parameters have no update.
  """
  params = {param_name(path): x for path, x in jax.tree_util.tree_leaves_with_path(state.params)}
  updates = last_update(config, lr_schedule, state.params, state.opt_state)
  modules = sorted({name.partition("/")[0] for name in params if "/" in name})
  sizes, changes = ({module: _square_sum(tree, f"{module}/") for module in modules} for tree in (params, updates))
  ratios = {f"{UPDATE_RATIO}{module}": jnp.sqrt(changes[module] / sizes[module]) for module in modules}
  return {"param_norm": jnp.sqrt(sum(sizes.values())), "update_norm": jnp.sqrt(sum(changes.values())), **ratios}


def _square_sum(values: dict[str, Array], prefix: str) -> Float[Array, ""]:
  return sum((jnp.sum(x * x) for name, x in values.items() if name.startswith(prefix)), jnp.zeros(()))


def compile_update_norms(
  config: ConfigDict, lr_schedule: optax.Schedule, mesh: Mesh, state: TrainState
) -> Callable[[TrainState], Norms]:
  """Compiles `update_norms` in advance, so that no step pays for it.

  Args:
    config: `config.optimizer`.
    lr_schedule: the learning rate by step.
    mesh: of the run.
    state: has the shapes of all states; may be abstract.
  """
  jitted = jax.jit(
    lambda state: update_norms(config, lr_schedule, state),
    in_shardings=(sharding.state_shardings(mesh, state),),
    out_shardings=sharding.replicated(mesh),
  )
  return jitted.lower(state).compile()
