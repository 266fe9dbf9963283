"""The AdamW of CLIP-ViP's public implementation as an optax chain, and its learning-rate schedules.

It differs from `optax.adamw` in two places: epsilon is added outside the bias correction, and weight decay applies to
the values after the Adam step. Rules address parameters by name, as `text/transformer/block_0/mlp/up/bias`.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import optax
from flax import traverse_util
from jaxtyping import Array, Float, Int
from ml_collections import ConfigDict

from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.param_names import param_name

Leaf = TypeVar("Leaf")
Update = Int[Array, ""]  # number of an update, from 1

# The temperature's upper bound: similarities are multiplied by at most 200.
MAX_LOGIT_SCALE = math.log(200.0)

# Replaces a learning rate of exactly 0, as in the public implementation.
_MIN_LEARNING_RATE = 1e-8


def _cosine(n: Update, warmup: int, total: int) -> Float[Array, ""]:
  return 0.5 * (1 + jnp.cos(jnp.pi * _progress(n, warmup, total)))


def _linear(n: Update, warmup: int, total: int) -> Float[Array, ""]:
  return 1 - _progress(n, warmup, total)


def _inverse_sqrt(n: Update, warmup: int, total: int) -> Float[Array, ""]:
  del total
  return jnp.sqrt(max(warmup, 1) / jnp.maximum(n, 1))


def _progress(n: Update, warmup: int, total: int) -> Float[Array, ""]:
  """Returns 0 at the end of the warm-up, 1 at the last update."""
  return jnp.clip((n - warmup) / max(total - warmup, 1), 0, 1)


# Decay after the linear warm-up; "constant" has neither.
SCHEDULES = {"cosine": _cosine, "linear": _linear, "inverse_sqrt": _inverse_sqrt, "constant": None}


def learning_rate(name: str, base: float, total_steps: int, warmup_ratio: float) -> optax.Schedule:
  """Creates a schedule: update n = 1, 2, ..., total_steps -> `base` times linear warm-up from 0, or decay.

  Args:
    name: a key of SCHEDULES.
    base: learning rate at the end of the warm-up.
    total_steps: updates.
    warmup_ratio: the warm-up takes `int(warmup_ratio * total_steps)` updates.

  Raises:
    UserError: unknown schedule.
  """
  if name not in SCHEDULES:
    raise UserError(f"optimizer.schedule={name!r} is unknown; allowed: {', '.join(SCHEDULES)}")
  decay = SCHEDULES[name]
  warmup = int(warmup_ratio * total_steps)

  def schedule(n: Update) -> Float[Array, ""]:
    if decay is None:
      return jnp.full(jnp.shape(n), base, jnp.float32)
    factor = jnp.where(n < warmup, n / max(warmup, 1), decay(n, warmup, total_steps))
    value = base * factor
    return jnp.where(value == 0, _MIN_LEARNING_RATE, value).astype(jnp.float32)

  return schedule


def map_names(function: Callable[[str], Leaf], params: optax.Params) -> optax.Params:
  """Returns a tree of the structure of `params`, whose leaves are `function(parameter name)`."""
  return jax.tree_util.tree_map_with_path(lambda path, _: function(param_name(path)), params)


def _begins_with(name: str, prefix: str) -> bool:
  """Returns whether a parameter's name begins with the parts of `prefix`: block_1 is not block_10."""
  return f"{name}/".startswith(f"{prefix.rstrip('/')}/")


def is_frozen(name: str, frozen: Sequence[str]) -> bool:
  """Returns whether a parameter's name begins with the parts of one of `frozen`."""
  return any(_begins_with(name, prefix) for prefix in frozen)


def stop_frozen_gradients(params: optax.Params, frozen: Sequence[str]) -> optax.Params:
  """Returns the same parameters, with `stop_gradient` on frozen ones: their gradients are zeros and not computed."""

  def stop(path: jax.tree_util.KeyPath, value: Array) -> Array:
    return jax.lax.stop_gradient(value) if is_frozen(param_name(path), frozen) else value

  return jax.tree_util.tree_map_with_path(stop, params)


def decays(name: str) -> bool:
  """Returns whether weight decay applies: not to biases and `logit_scale`, but to LayerNorm scales, as published."""
  return "bias" not in name and name != "logit_scale"


def lr_multiplier(name: str, multipliers: Mapping[str, float]) -> float:
  """Returns the product of the multipliers whose keys' parts a parameter's name begins with."""
  return math.prod(factor for prefix, factor in multipliers.items() if _begins_with(name, prefix))


class AdamState(NamedTuple):
  """Number of updates, and first and second moments of every parameter."""

  step: Int[Array, ""]
  first: optax.Params
  second: optax.Params


def scale_by_adam(b1: float, b2: float, eps: float) -> optax.GradientTransformation:
  """Scales gradients g to sqrt(1 - b2^t) / (1 - b1^t) * m / (sqrt(v) + eps)."""

  def init(params: optax.Params) -> AdamState:
    zeros = jax.tree.map(jnp.zeros_like, params)
    return AdamState(jnp.zeros((), jnp.int32), zeros, zeros)

  def update(
    grads: optax.Updates, state: AdamState, params: optax.Params | None = None
  ) -> tuple[optax.Updates, AdamState]:
    del params
    step = state.step + 1
    first = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.first, grads)
    second = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, state.second, grads)
    new_state = AdamState(step, first, second)
    return _directions(new_state, b1, b2, eps), new_state

  return optax.GradientTransformation(init, update)


def _directions(state: AdamState, b1: float, b2: float, eps: float) -> optax.Updates:
  # 1 - b^t, exact also where b^t is near 1 and the subtraction would cancel.
  debias1, debias2 = (-jnp.expm1(state.step * math.log(b)) for b in (b1, b2))
  correction = jnp.sqrt(debias2) / debias1
  return jax.tree.map(lambda m, v: correction * m / (jnp.sqrt(v) + eps), state.first, state.second)


def last_update(
  config: ConfigDict, lr_schedule: optax.Schedule, params: optax.Params, opt_state: optax.OptState
) -> dict[str, Float[Array, "..."]]:
  """Computes the update that led to `params`, from the moments after it: `descend` solved for its change.

  Args:
    config: `config.optimizer`.
    lr_schedule: of the configuration.
    params: after the update.
    opt_state: after the update.

  Returns:
    {parameter name: update} of the trained parameters, where that of the logit scale is not clipped.
  """
  is_adam = lambda part: isinstance(part, AdamState)  # noqa: E731
  (state,) = filter(is_adam, jax.tree.leaves(opt_state, is_leaf=is_adam))
  rate, values = lr_schedule(state.step), _by_name(params)
  updates = {}
  for name, direction in _by_name(_directions(state, config.b1, config.b2, config.eps)).items():
    lr, wd = rate * lr_multiplier(name, config.lr_multipliers), config.weight_decay if decays(name) else 0.0
    updates[name] = -lr * direction - lr * wd * values[name] / (1 - lr * wd)
  return updates


def _by_name(tree: optax.Params) -> dict[str, Array]:
  return {param_name(path): x for path, x in jax.tree_util.tree_leaves_with_path(tree)}


class DescendState(NamedTuple):
  """Number of updates."""

  step: Int[Array, ""]


def descend(
  lr_schedule: optax.Schedule, weight_decay: float, multipliers: Mapping[str, float]
) -> optax.GradientTransformation:
  """Applies p <- p - lr * direction, then p <- p - lr * weight_decay * p, with each parameter's multiplier on lr."""

  def init(params: optax.Params) -> DescendState:
    del params
    return DescendState(jnp.zeros((), jnp.int32))

  def update(
    directions: optax.Updates, state: DescendState, params: optax.Params | None = None
  ) -> tuple[optax.Updates, DescendState]:
    step = state.step + 1
    rate = lr_schedule(step)
    learning_rates = map_names(lambda name: rate * lr_multiplier(name, multipliers), params)
    decay = map_names(lambda name: weight_decay if decays(name) else 0.0, params)

    def change(direction, p, lr, wd):
      return -lr * direction - lr * wd * (p - lr * direction)

    return jax.tree.map(change, directions, params, learning_rates, decay), DescendState(step)

  return optax.GradientTransformation(init, update)


def clip_logit_scale() -> optax.GradientTransformation:
  """Clips the updated logit scale to [0, ln 200]."""

  def update(updates: optax.Updates, params: optax.Params) -> optax.Updates:
    scale = params["logit_scale"]
    clipped = jnp.clip(scale + updates["logit_scale"], 0.0, MAX_LOGIT_SCALE)
    return {**updates, "logit_scale": clipped - scale}

  return optax.stateless(update)


def clip_by_global_norm(max_norm: float) -> optax.GradientTransformation:
  """Scales gradients by `min(1, max_norm / (norm + 1e-6))` as PyTorch does; optax does not add 1e-6."""

  def update(grads: optax.Updates, params: optax.Params | None) -> optax.Updates:
    del params
    factor = jnp.minimum(1.0, max_norm / (optax.global_norm(grads) + 1e-6))
    return jax.tree.map(lambda g: factor * g, grads)

  return optax.stateless(update)


# Values out of range would train without an error and without effect.
_RANGES: tuple[tuple[str, str, Callable[[float], bool]], ...] = (
  ("learning_rate", "0 or more", lambda x: 0 <= x < math.inf),
  ("warmup_ratio", "0 to 1", lambda x: 0 <= x <= 1),
  ("weight_decay", "0 or more", lambda x: 0 <= x < math.inf),
  ("clip_norm", "above 0; inf for no clipping", lambda x: x > 0),
  ("b1", "above 0, below 1", lambda x: 0 < x < 1),
  ("b2", "above 0, below 1", lambda x: 0 < x < 1),
  ("eps", "above 0", lambda x: 0 < x < math.inf),
)


def from_config(config: ConfigDict, total_steps: int) -> tuple[optax.GradientTransformation, optax.Schedule]:
  """Creates the optimizer and the learning-rate schedule of `config.optimizer` over `total_steps` updates.

  Raises:
    UserError: unknown schedule, or a number out of range.
  """
  for field, allowed, is_allowed in _RANGES:
    if not is_allowed(config[field]):
      raise UserError(f"optimizer.{field}={config[field]} is out of range; allowed: {allowed}")
  for prefix, factor in config.lr_multipliers.items():
    if not 0 <= factor < math.inf:
      raise UserError(f"optimizer.lr_multipliers[{prefix!r}]={factor} is out of range; allowed: 0 or more")
  lr_schedule = learning_rate(config.schedule, config.learning_rate, total_steps, config.warmup_ratio)
  transformations: tuple[optax.GradientTransformation, ...] = (
    clip_by_global_norm(config.clip_norm),
    scale_by_adam(config.b1, config.b2, config.eps),
    descend(lr_schedule, config.weight_decay, config.lr_multipliers),
  )
  if config.frozen:  # frozen parameters have no moments and no weight decay
    trained = functools.partial(map_names, lambda name: not is_frozen(name, config.frozen))
    transformations = (optax.masked(optax.chain(*transformations), trained),)
  return optax.chain(*transformations, clip_logit_scale()), lr_schedule


def check_names(config: ConfigDict, params: optax.Params) -> None:
  """Checks that the parameter names in `config.optimizer` match parameters of the model.

  Args:
    config: `config.optimizer`.
    params: parameters or their shapes.

  Raises:
    UserError: a multiplier or a frozen prefix matches no parameter, or all parameters are frozen.
  """
  names = ["/".join(path) for path in traverse_util.flatten_dict(params)]
  example = f"use the first parts of a name such as {names[0]!r}"
  for field in ("lr_multipliers", "frozen"):
    for prefix in config[field]:
      if not any(_begins_with(name, prefix) for name in names):
        raise UserError(f"optimizer.{field}: no parameter name begins with {prefix!r}; {example}")
  if all(is_frozen(name, config.frozen) for name in names if name != "logit_scale"):
    raise UserError(f"optimizer.frozen={tuple(config.frozen)} leaves no parameter to train; remove a prefix")
