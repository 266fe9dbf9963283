"""AdamW as CLIP-ViP's results were made with it, as an optax chain; and the learning-rate schedules.

It differs from `optax.adamw` in two places: epsilon stands outside the bias correction, and weights decay after the
Adam step, from the values that it left. Parameters are addressed by name, as `text/transformer/block_0/mlp/up/bias`.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import traverse_util
from jaxtyping import Array, Float, Int

from clipvip_jax.utils.errors import UserError

Schedule = Callable[[Array], Array]

# Keeps the temperature sane: similarities are multiplied by at most 200.
MAX_LOGIT_SCALE = math.log(200.0)

# What a schedule gives where its formula gives 0, so that no update is lost.
_SMALLEST_RATE = 1e-8


def _cosine(n, warmup, total):
  return 0.5 * (1 + jnp.cos(jnp.pi * _progress(n, warmup, total)))


def _linear(n, warmup, total):
  return 1 - _progress(n, warmup, total)


def _inverse_sqrt(n, warmup, total):
  del total
  return jnp.sqrt(max(warmup, 1) / jnp.maximum(n, 1))


def _progress(n, warmup, total):
  """0 at the end of the warm-up, 1 at the last update."""
  return jnp.clip((n - warmup) / max(total - warmup, 1), 0, 1)


# After the linear warm-up. "constant" has none.
SCHEDULES = {"cosine": _cosine, "linear": _linear, "inverse_sqrt": _inverse_sqrt, "constant": None}


def learning_rate(name: str, base: float, total_steps: int, warmup_ratio: float) -> Schedule:
  """The rate of update n = 1, 2, ..., total_steps: `base` times a warm-up from 0 and a decay.

  The warm-up takes `int(warmup_ratio * total_steps)` updates.

  Raises:
    UserError: no such schedule.
  """
  if name not in SCHEDULES:
    raise UserError(f"optimizer.schedule={name!r} is unknown; allowed: {', '.join(SCHEDULES)}")
  decay = SCHEDULES[name]
  warmup = int(warmup_ratio * total_steps)

  def rate(n: Int[Array, ""]) -> Float[Array, ""]:
    if decay is None:
      return jnp.full(jnp.shape(n), base, jnp.float32)
    factor = jnp.where(n < warmup, n / max(warmup, 1), decay(n, warmup, total_steps))
    value = base * factor
    return jnp.where(value == 0, _SMALLEST_RATE, value).astype(jnp.float32)

  return rate


def by_name(function: Callable[[str], Any], params: Any) -> Any:
  """A tree like `params` whose leaves are `function(name of the parameter)`."""
  return jax.tree_util.tree_map_with_path(lambda path, _: function(_name(path)), params)


def _name(path: tuple[Any, ...]) -> str:
  return jax.tree_util.keystr(path, simple=True, separator="/")


def is_frozen(name: str, frozen: Sequence[str]) -> bool:
  """Whether a parameter is one of those that training leaves alone: its name begins as one of `frozen`."""
  return name.startswith(tuple(frozen))


def without_gradient(params: Any, frozen: Sequence[str]) -> Any:
  """The same parameters; nothing is computed for the gradients of those that are frozen, which are zeros."""

  def stopped(path, value):
    return jax.lax.stop_gradient(value) if is_frozen(_name(path), frozen) else value

  return jax.tree_util.tree_map_with_path(stopped, params)


def decays(name: str) -> bool:
  """Whether weight decay applies. LayerNorm scales and embeddings do decay, as in the published runs."""
  return "bias" not in name and name != "logit_scale"


def rate_multiplier(name: str, multipliers: Mapping[str, float]) -> float:
  """The product of the multipliers whose key is part of the name."""
  return math.prod(factor for part, factor in multipliers.items() if part in name)


class AdamState(NamedTuple):
  """Updates done; first and second moments, like the parameters."""

  step: Int[Array, ""]
  first: Any
  second: Any


def scale_by_adam(b1: float, b2: float, eps: float) -> optax.GradientTransformation:
  """g -> sqrt(1 - b2^t) / (1 - b1^t) * m / (sqrt(v) + eps)."""

  def init(params):
    zeros = jax.tree.map(jnp.zeros_like, params)
    return AdamState(jnp.zeros((), jnp.int32), zeros, zeros)

  def update(grads, state, params=None):
    del params
    step = state.step + 1
    first = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.first, grads)
    second = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, state.second, grads)
    # 1 - b^t, exact also where b^t is near 1 and the subtraction would cancel.
    debias1, debias2 = (-jnp.expm1(step * math.log(b)) for b in (b1, b2))
    correction = jnp.sqrt(debias2) / debias1
    directions = jax.tree.map(lambda m, v: correction * m / (jnp.sqrt(v) + eps), first, second)
    return directions, AdamState(step, first, second)

  return optax.GradientTransformation(init, update)


class DescendState(NamedTuple):
  """Updates done."""

  step: Int[Array, ""]


def descend(rate: Schedule, weight_decay: float, multipliers: Mapping[str, float]) -> optax.GradientTransformation:
  """p <- p - lr * direction, then p <- p - lr * weight_decay * p, with the rate of each parameter's name."""

  def init(params):
    del params
    return DescendState(jnp.zeros((), jnp.int32))

  def update(directions, state, params):
    step = state.step + 1
    rates = by_name(lambda name: rate(step) * rate_multiplier(name, multipliers), params)
    decay = by_name(lambda name: weight_decay if decays(name) else 0.0, params)

    def change(direction, p, lr, wd):
      return -lr * direction - lr * wd * (p - lr * direction)

    return jax.tree.map(change, directions, params, rates, decay), DescendState(step)

  return optax.GradientTransformation(init, update)


def keep_logit_scale() -> optax.GradientTransformation:
  """Keeps the updated logit scale in [0, ln 200]."""

  def update(updates, params):
    scale = params["logit_scale"]
    kept = jnp.clip(scale + updates["logit_scale"], 0.0, MAX_LOGIT_SCALE)
    return {**updates, "logit_scale": kept - scale}

  return optax.stateless(update)


# Outside of these a run goes on without an error and without learning.
_RANGES: tuple[tuple[str, str, Callable[[float], bool]], ...] = (
  ("learning_rate", "0 or more", lambda x: 0 <= x < math.inf),
  ("warmup_ratio", "0 to 1", lambda x: 0 <= x <= 1),
  ("weight_decay", "0 or more", lambda x: 0 <= x < math.inf),
  ("clip_norm", "above 0; inf for none", lambda x: x > 0),
  ("b1", "above 0, below 1", lambda x: 0 < x < 1),
  ("b2", "above 0, below 1", lambda x: 0 < x < 1),
  ("eps", "above 0", lambda x: 0 < x < math.inf),
)


def check_names(config: Any, params: Any) -> None:
  """Refuses what `config.optimizer` says of parameters that the model does not have.

  Raises:
    UserError: names a multiplier or a frozen part that no parameter would ever meet, or nothing is left to train.
  """
  names = ["/".join(path) for path in traverse_util.flatten_dict(params)]
  for part in config.lr_multipliers:
    if not any(part in name for name in names):
      raise UserError(f"optimizer.lr_multipliers: no parameter's name contains {part!r}; one is {names[0]!r}")
  for part in config.frozen:
    if not part or not any(is_frozen(name, (part,)) for name in names):
      raise UserError(f"optimizer.frozen: no parameter's name begins with {part!r}; one is {names[0]!r}")
  if all(is_frozen(name, config.frozen) for name in names if name != "logit_scale"):
    raise UserError(f"optimizer.frozen={tuple(config.frozen)} leaves nothing to train")


def from_config(config: Any, total_steps: int) -> tuple[optax.GradientTransformation, Schedule]:
  """The optimiser of `config.optimizer` over `total_steps` updates, and its learning rate by update number.

  Raises:
    UserError: no such schedule, or a number out of its range.
  """
  for field, allowed, ok in _RANGES:
    if not ok(config[field]):
      raise UserError(f"optimizer.{field}={config[field]} is out of range; allowed: {allowed}")
  rate = learning_rate(config.schedule, config.learning_rate, total_steps, config.warmup_ratio)
  parts: tuple[optax.GradientTransformation, ...] = (
    clip_by_global_norm(config.clip_norm),
    scale_by_adam(config.b1, config.b2, config.eps),
    descend(rate, config.weight_decay, config.lr_multipliers),
  )
  if config.frozen:  # no moments are kept for what is frozen, and no decay touches it
    trained = functools.partial(by_name, lambda name: not is_frozen(name, config.frozen))
    parts = (optax.masked(optax.chain(*parts), trained),)
  return optax.chain(*parts, keep_logit_scale()), rate


def clip_by_global_norm(max_norm: float) -> optax.GradientTransformation:
  """Factor `min(1, max_norm / (norm + 1e-6))`, as PyTorch clips; optax leaves the 1e-6 out."""

  def update(grads, params):
    del params
    factor = jnp.minimum(1.0, max_norm / (optax.global_norm(grads) + 1e-6))
    return jax.tree.map(lambda g: factor * g, grads)

  return optax.stateless(update)
