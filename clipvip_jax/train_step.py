"""The training state and one step: embed, contrast, differentiate, update. Pure; the loop alone logs and saves.

Letters: B global batch, T frames, S side in pixels or tokens of a text.
"""

from collections.abc import Callable, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from clipvip_jax.losses import Batch, Loss
from clipvip_jax.models.clip_vip import ClipVip
from clipvip_jax.models.vision import PATCH_DROPOUT
from clipvip_jax.optimizer import Schedule, without_gradient

_INPUTS = ("video", "frame", "subtitle", "caption")


class TrainState(flax.struct.PyTreeNode):
  """What a step changes. `step` counts the updates done."""

  step: Int[Array, ""]
  params: Any
  opt_state: Any


def init_state(model: ClipVip, optimizer: optax.GradientTransformation, sizes: Any, seed: int) -> TrainState:
  """A state of random parameters.

  Args:
    sizes: `config.model`, for the shapes of the arrays that shape the parameters.
  """
  video = jnp.zeros((1, 1, sizes.image_size, sizes.image_size, 3))
  params = model.init(jax.random.key(seed), video, jnp.zeros((1, 2), jnp.int32))["params"]
  return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))


def embed_batch(model: ClipVip, loss: Loss, params: Any, batch: dict[str, Array], key: Array | None = None) -> Batch:
  """The features that `loss` reads: only the towers that it needs run.

  Args:
    batch: `video` [B, T, S, S, 3], `frame` [B, S, S, 3] (the middle frame, embedded as a clip with T = 1),
      `subtitle` and `caption` ids [B, S], and the masks `subtitle_mask` and `caption_mask` [B].
    key: chooses the patches that are left out; None keeps all of them.
  """

  def embed(name, x, method):
    # Each input has patches of its own.
    rngs = {} if key is None else {PATCH_DROPOUT: jax.random.fold_in(key, _INPUTS.index(name))}
    return model.apply({"params": params}, x, method=method, rngs=rngs)

  given = {name: batch[name] for name in _INPUTS if name in loss.uses}
  if "frame" in given:
    given["frame"] = given["frame"][:, None]
  methods = dict.fromkeys(("video", "frame"), "embed_video") | dict.fromkeys(("subtitle", "caption"), "embed_text")
  features = {name: embed(name, x, methods[name]) for name, x in given.items()}
  masks = {name: mask for name, mask in batch.items() if name.endswith("_mask")}
  return {**features, **masks}


def make_train_step(
  model: ClipVip,
  loss: Loss,
  optimizer: optax.GradientTransformation,
  rate: Schedule,
  *,
  frozen: Sequence[str] = (),
  seed: int = 0,
) -> Callable[[TrainState, dict[str, Array]], tuple[TrainState, dict[str, Float[Array, ""]]]]:
  """step(state, batch) -> (state after one update, metrics); see `embed_batch` for the batch.

  Under `jax.jit` with a batch that is sharded over a mesh (what `pjit` was for), the loss is that of the global batch.
  The metrics are the loss, the gradient's norm before clipping, the update's learning rate, and the logit scale after
  the update.

  Args:
    frozen: how names of parameters begin whose gradients are not computed; `optimizer.from_config` leaves them alone.
    seed: with the step, it decides which patches are left out (`model.patch_dropout`).
  """

  def step(state, batch):
    key = jax.random.fold_in(jax.random.key(seed), state.step) if model.vision.patch_dropout else None

    def objective(params):
      params = without_gradient(params, frozen)
      return loss(embed_batch(model, loss, params, batch, key), params["logit_scale"])

    value, grads = jax.value_and_grad(objective)(state.params)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    metrics = {
      "loss": value,
      "grad_norm": optax.global_norm(grads),
      "learning_rate": rate(state.step + 1),
      "logit_scale": params["logit_scale"],
    }
    return TrainState(state.step + 1, params, opt_state), metrics

  return step
