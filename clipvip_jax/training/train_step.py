"""The training state and one step: embed, contrast, differentiate, update. Pure; the loop alone logs and saves.

Letters: B global batch, T frames, S side in pixels or tokens of a text.
"""

from collections.abc import Callable, Sequence
from typing import Any

import einops
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float

from clipvip_jax.distributed import sharding
from clipvip_jax.models.clip_vip import ClipVip
from clipvip_jax.models.vision import PATCH_DROPOUT
from clipvip_jax.runs.train_state import TrainState
from clipvip_jax.training.losses import Batch, Loss
from clipvip_jax.training.optimizer import Schedule, is_frozen, without_gradient

_VISUAL = ("video", "frame")
_INPUTS = (*_VISUAL, "subtitle", "caption")


def init_state(model: ClipVip, optimizer: optax.GradientTransformation, sizes: Any, seed: int) -> TrainState:
  """A state of random parameters.

  Args:
    sizes: `config.model`, for the shapes of the arrays that shape the parameters.
  """
  video = jnp.zeros((1, 1, sizes.image_size, sizes.image_size, 3))
  params = model.init(jax.random.key(seed), video, jnp.zeros((1, 2), jnp.int32))["params"]
  return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))


def embed_batch(model: ClipVip, loss: Loss, params: Any, batch: dict[str, Array], key: Array | None = None) -> Batch:
  """The features that `loss` reads, and the masks: only the towers that it needs run.

  Args:
    batch: `video` [B, T, S, S, 3], `frame` [B, S, S, 3] (the middle frame, embedded as a clip with T = 1),
      `subtitle` and `caption` ids [B, S], and the masks `subtitle_mask` and `caption_mask` [B].
    key: chooses the patches that are left out; None keeps all of them.
  """

  given = {name: batch[name] for name in _INPUTS if name in loss.uses}
  features: dict[str, Any] = {}
  for name in (name for name in _VISUAL if name in given):
    clip = given[name] if name == "video" else given[name][:, None]
    # Each input has patches of its own.
    rngs = {} if key is None else {PATCH_DROPOUT: jax.random.fold_in(key, _INPUTS.index(name))}
    features[name] = model.apply({"params": params}, clip, method="embed_video", rngs=rngs)
  if texts := [name for name in given if name not in _VISUAL]:
    # All texts at once, those of a clip side by side, so that a clip's share of the batch stays on its device.
    ids = einops.rearrange([given[name] for name in texts], "k b s -> (b k) s")
    found: Any = model.apply({"params": params}, ids, method="embed_text")
    features |= zip(texts, einops.rearrange(found, "(b k) e -> k b e", k=len(texts)), strict=True)
  return features | _masks(batch)


def _masks(batch: dict[str, Array]) -> dict[str, Array]:
  return {name: mask for name, mask in batch.items() if name.endswith("_mask")}


def loss_and_gradients(
  embed: Callable[[Any, dict[str, Array], Array | None], Batch],
  contrast: Callable[[Batch, Float[Array, ""]], Float[Array, ""]],
  params: Any,
  batch: dict[str, Array],
  key: Array | None = None,
  pieces: int = 1,
) -> tuple[Float[Array, ""], Any]:
  """The loss of the whole batch and its gradient by the parameters, with the towers' memory of one piece of it.

  In more than one piece, features come first, piece by piece and without what their gradient would need; then the loss
  of all of them and its gradient by the features; then the towers once more, piece by piece, each with the gradient of
  its features. By the chain rule that is the gradient of the whole batch, not a mean over small batches, whose clips
  would never meet (GradCache, Gao et al., arXiv 2101.06983).

  Args:
    embed: (params, batch, key) -> the features of a batch or of a piece of it.
    contrast: (features and masks of the whole batch, logit scale) -> loss.
    key: chooses patches that are left out, anew for every piece.
    pieces: a divisor of the clips that each device has.
  """
  if pieces == 1:
    return jax.value_and_grad(lambda params: contrast(embed(params, batch, key), params["logit_scale"]))(params)

  numbered = (jnp.arange(pieces), _in_pieces({name: batch[name] for name in _INPUTS if name in batch}, pieces))

  def features_of(params, piece):
    number, inputs = piece
    return embed(params, inputs, None if key is None else jax.random.fold_in(key, number))

  features = _whole(jax.lax.map(lambda piece: features_of(params, piece), numbered))
  value, (by_features, by_scale) = jax.value_and_grad(
    lambda features, scale: contrast({**features, **_masks(batch)}, scale), (0, 1)
  )(features, params["logit_scale"])

  def add(total, piece):
    numbered, gradient = piece
    _, pull_back = jax.vjp(lambda params: features_of(params, numbered), params)
    return jax.tree.map(jnp.add, total, *pull_back(gradient)), None

  start = jax.tree.map(jnp.zeros_like, params)
  total, _ = jax.lax.scan(add, {**start, "logit_scale": by_scale}, (numbered, _in_pieces(by_features, pieces)))
  return value, total


def _in_pieces(tree: Any, pieces: int) -> Any:
  """[B, ...] -> [pieces, B / pieces, ...]. Every piece has clips of every device, so none of them moves."""
  return jax.tree.map(lambda x: x.reshape(-1, pieces, *x.shape[1:]).swapaxes(0, 1), tree)


def _whole(tree: Any) -> Any:
  """What `_in_pieces` parted."""
  return jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:]), tree)


def make_train_step(
  model: ClipVip,
  loss: Loss,
  optimizer: optax.GradientTransformation,
  rate: Schedule,
  *,
  frozen: Sequence[str] = (),
  seed: int = 0,
  pieces: int = 1,
  mesh: Mesh | None = None,
  whole_clips: bool = False,
) -> Callable[[TrainState, dict[str, Array]], tuple[TrainState, dict[str, Float[Array, ""]]]]:
  """step(state, batch) -> (state after one update, metrics); see `embed_batch` for the batch.

  Under `jax.jit` with a batch that is sharded over a mesh (what `pjit` was for), the loss is that of the global batch.
  The metrics are the loss, the gradient's norm before clipping, the update's learning rate, and the logit scale after
  the update.

  Args:
    frozen: how names of parameters begin whose gradients are not computed; `optimizer.from_config` leaves them alone.
    seed: with the step, it decides which patches are left out (`model.patch_dropout`).
    pieces: see `loss_and_gradients`.
    mesh: over which batch and parameters are split; None: everything is on one device.
    whole_clips: no patch is left out, whatever `model.patch_dropout` is.
  """
  leaves_out = model.vision.patch_dropout and not whole_clips
  loss_of_all = loss if mesh is None else sharding.sharded_loss(mesh, loss)

  def contrast(features, scale):
    return loss_of_all(features, jax.lax.stop_gradient(scale) if is_frozen("logit_scale", frozen) else scale)

  def embed(params, batch, key):
    params = without_gradient(params, frozen)
    return embed_batch(model, loss, params if mesh is None else sharding.gather_params(mesh, params), batch, key)

  def step(state, batch):
    key = jax.random.fold_in(jax.random.key(seed), state.step) if leaves_out else None
    value, grads = loss_and_gradients(embed, contrast, state.params, batch, key, pieces)
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


def jit_train_step(
  config: Any,
  model: ClipVip,
  loss: Loss,
  optimizer: optax.GradientTransformation,
  rate: Schedule,
  mesh: Mesh,
  state: Any,
  *,
  whole_clips: bool = False,
) -> Any:
  """The jitted step of a configuration on a mesh: what a run calls, and what is compiled ahead of time.

  Args:
    config: the whole configuration.
    state: a state or its shapes.
    whole_clips: see `make_train_step`.
  """
  placed, everywhere = sharding.state_shardings(mesh, state), sharding.replicated(mesh)
  step = make_train_step(
    model,
    loss,
    optimizer,
    rate,
    frozen=config.optimizer.frozen,
    seed=config.seed,
    pieces=config.train.num_microbatches,
    mesh=mesh,
    whole_clips=whole_clips,
  )
  return jax.jit(
    step,
    in_shardings=(placed, sharding.batch_sharding(mesh)),
    out_shardings=(placed, everywhere),
    donate_argnums=0,
  )
