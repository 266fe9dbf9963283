"""The training state and one step: embed, contrast, differentiate, update. Pure; the loop alone logs and saves.

Letters: B global batch, T frames, S side in pixels or tokens of a text.
"""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from clipvip_jax.losses import Batch, Loss
from clipvip_jax.models.clip_vip import ClipVip
from clipvip_jax.optimizer import Schedule


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


def embed_batch(model: ClipVip, loss: Loss, params: Any, batch: dict[str, Array]) -> Batch:
  """The features that `loss` reads: only the towers that it needs run.

  Args:
    batch: `video` [B, T, S, S, 3], `frame` [B, S, S, 3] (the middle frame, embedded as a clip with T = 1),
      `subtitle` and `caption` ids [B, S], and the masks `subtitle_mask` and `caption_mask` [B].
  """

  def video(x):
    return model.apply({"params": params}, x, method="embed_video")

  def text(x):
    return model.apply({"params": params}, x, method="embed_text")

  features = {"video": video(batch["video"]), "subtitle": text(batch["subtitle"])}
  if "frame" in loss.uses:
    features["frame"] = video(batch["frame"][:, None])
  if "caption" in loss.uses:
    features["caption"] = text(batch["caption"])
  masks = {name: mask for name, mask in batch.items() if name.endswith("_mask")}
  return {**features, **masks}


def make_train_step(
  model: ClipVip, loss: Loss, optimizer: optax.GradientTransformation, rate: Schedule
) -> Callable[[TrainState, dict[str, Array]], tuple[TrainState, dict[str, Float[Array, ""]]]]:
  """step(state, batch) -> (state after one update, metrics); see `embed_batch` for the batch.

  Under `jax.jit` with a batch that is sharded over a mesh (what `pjit` was for), the loss is that of the global batch.
  The metrics are the loss, the gradient's norm before clipping, the update's learning rate, and the logit scale after
  the update.
  """

  def step(state, batch):
    def objective(params):
      return loss(embed_batch(model, loss, params, batch), params["logit_scale"])

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
