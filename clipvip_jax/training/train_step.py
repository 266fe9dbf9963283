"""Training step: embed the batch, compute the contrastive loss, differentiate, update. Pure functions.

Letters: B global batch, T frames, S side in pixels or tokens of a text.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeVar, cast

import einops
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Key
from ml_collections import ConfigDict

from clipvip_jax.distributed import sharding
from clipvip_jax.input_pipeline.device_normalization import normalize
from clipvip_jax.models.clip_vip import ClipVip, with_heads_sharding
from clipvip_jax.models.vision import PATCH_DROPOUT
from clipvip_jax.runs.train_state import TrainState
from clipvip_jax.training.losses import FeatureBatch, Loss
from clipvip_jax.training.optimizer import is_frozen, stop_frozen_gradients
from clipvip_jax.training.parameter_average import start_average, update_average

_VISUAL = ("video", "frame")
_INPUTS = (*_VISUAL, "subtitle", "caption")

# Training inputs; see `embed_batch`.
Batch = Mapping[str, Array]
Metrics = dict[str, Float[Array, ""]]
TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]
Tree = TypeVar("Tree")


class JittedTrainStep(Protocol):
  """A `TrainStep` under `jax.jit`."""

  def __call__(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
    """Runs the step; donates `state`."""

  def lower(self, state: TrainState, batch: Mapping[str, Array | jax.ShapeDtypeStruct]) -> jax.stages.Lowered:
    """Lowers the step for ahead-of-time compilation, from arrays or their shapes."""


def init_state(
  model: ClipVip, optimizer: optax.GradientTransformation, model_config: ConfigDict, seed: int
) -> TrainState:
  """Initializes a state with random parameters.

  Args:
    model: both towers.
    optimizer: its moments are part of the state.
    model_config: `config.model`, for the shapes of inputs.
    seed: of the parameters.
  """
  video = jnp.zeros((1, 1, model_config.image_size, model_config.image_size, 3))
  params = model.init(jax.random.key(seed), video, jnp.zeros((1, 2), jnp.int32))["params"]
  return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))


def state_shapes(config: ConfigDict, model: ClipVip, optimizer: optax.GradientTransformation) -> TrainState:
  """Returns the shapes of the state of a run, of the whole configuration."""
  return jax.eval_shape(lambda: start_average(init_state(model, optimizer, config.model, config.seed), config))


def embed_batch(
  model: ClipVip, loss: Loss, params: optax.Params, batch: Batch, key: Key[Array, ""] | None = None
) -> FeatureBatch:
  """Computes the features that `loss` uses, and passes the masks on. Towers that it does not use are not run.

  Args:
    model: both towers.
    loss: names the features.
    params: of the model.
    batch: `video` [B, T, S, S, 3], `frame` [B, S, S, 3] (the middle frame, embedded as a clip with T = 1), both in
      normalised float32 or in uint8; `subtitle` and `caption` ids [B, S]; the masks `subtitle_mask` and `caption_mask`
      [B].
    key: selects the patches that patch dropout removes; None keeps all patches.
  """
  inputs = {name: batch[name] for name in _INPUTS if name in loss.uses}
  features: dict[str, Array] = {}
  for name in (name for name in _VISUAL if name in inputs):
    clip = normalize(inputs[name] if name == "video" else inputs[name][:, None])
    # Video and middle frame drop different patches.
    rngs = {} if key is None else {PATCH_DROPOUT: jax.random.fold_in(key, _INPUTS.index(name))}
    features[name] = _apply(model, params, "embed_video", clip, rngs)
  if texts := [name for name in inputs if name not in _VISUAL]:
    # One pass over all texts. Those of a clip are adjacent, so that they stay on the device of the clip.
    ids = einops.rearrange([inputs[name] for name in texts], "k b s -> (b k) s")
    text_features = _apply(model, params, "embed_text", ids, {})
    features |= zip(texts, einops.rearrange(text_features, "(b k) e -> k b e", k=len(texts)), strict=True)
  return features | _masks(batch)


def _apply(
  model: ClipVip, params: optax.Params, method: str, inputs: Array, rngs: Mapping[str, Key[Array, ""]]
) -> Float[Array, "b e"]:
  return cast(Array, model.apply({"params": params}, inputs, method=method, rngs=dict(rngs)))


def _masks(batch: Batch) -> dict[str, Array]:
  return {name: mask for name, mask in batch.items() if name.endswith("_mask")}


def loss_and_gradients(
  embed: Callable[[optax.Params, Batch, Key[Array, ""] | None], FeatureBatch],
  contrast: Callable[[FeatureBatch, Float[Array, ""]], Float[Array, ""]],
  params: optax.Params,
  batch: Batch,
  key: Key[Array, ""] | None = None,
  num_microbatches: int = 1,
) -> tuple[Float[Array, ""], optax.Params]:
  """Computes the global-batch loss and its gradient by the parameters.

  With several microbatches this is gradient accumulation with cached features (GradCache, Gao et al., arXiv
  2101.06983), which needs the towers' memory of one microbatch only. The first pass computes all features without
  residuals, then the loss of the global batch and its gradient by the features. The second pass runs the towers again
  for each microbatch and accumulates the gradient by the parameters. By the chain rule the result is the gradient of
  the global batch, unlike the mean over small batches, whose clips are no negatives of each other.

  Args:
    embed: (params, batch, key) -> features of a batch or a microbatch.
    contrast: (features and masks of the global batch, logit scale) -> loss.
    params: of the model.
    batch: see `embed_batch`.
    key: selects the patches that patch dropout removes, different ones in each microbatch.
    num_microbatches: a divisor of the clips per device.
  """
  if num_microbatches == 1:
    return jax.value_and_grad(lambda params: contrast(embed(params, batch, key), params["logit_scale"]))(params)

  inputs = {name: batch[name] for name in _INPUTS if name in batch}
  indexed = (jnp.arange(num_microbatches), split_microbatches(inputs, num_microbatches))

  def embed_microbatch(params, indexed):
    index, inputs = indexed
    return embed(params, inputs, None if key is None else jax.random.fold_in(key, index))

  features = merge_microbatches(jax.lax.map(lambda indexed: embed_microbatch(params, indexed), indexed))
  value, (feature_grads, scale_grad) = jax.value_and_grad(
    lambda features, scale: contrast({**features, **_masks(batch)}, scale), (0, 1)
  )(features, params["logit_scale"])

  def accumulate(grads, microbatch):
    indexed, feature_grads = microbatch
    _, vjp = jax.vjp(lambda params: embed_microbatch(params, indexed), params)
    return jax.tree.map(jnp.add, grads, *vjp(feature_grads)), None

  start = {**jax.tree.map(jnp.zeros_like, params), "logit_scale": scale_grad}
  grads, _ = jax.lax.scan(accumulate, start, (indexed, split_microbatches(feature_grads, num_microbatches)))
  return value, grads


def split_microbatches(tree: Tree, num_microbatches: int) -> Tree:
  """Reshapes [B, ...] -> [num_microbatches, B / num_microbatches, ...] of each array.

  Each microbatch takes clips from every device, so that no clip moves to another device.
  """
  return jax.tree.map(lambda x: x.reshape(-1, num_microbatches, *x.shape[1:]).swapaxes(0, 1), tree)


def merge_microbatches(tree: Tree) -> Tree:
  """Inverts `split_microbatches`."""
  return jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:]), tree)


def num_dropout_steps(config: ConfigDict, total_steps: int) -> int:
  """Returns the number of steps with patch dropout; the remaining train.unmasked_fraction of a run sees all patches."""
  return total_steps - round(config.train.unmasked_fraction * total_steps) if config.model.patch_dropout else 0


def make_train_step(
  model: ClipVip,
  loss: Loss,
  optimizer: optax.GradientTransformation,
  lr_schedule: optax.Schedule,
  *,
  frozen: Sequence[str] = (),
  dropout_seed: int | None = None,
  num_microbatches: int = 1,
  mesh: Mesh | None = None,
) -> TrainStep:
  """Creates step(state, batch) -> (state after one update, metrics); see `embed_batch` for the batch.

  Under `jax.jit` with a batch that is sharded over a mesh, the loss is that of the global batch. The metrics are
  `loss`, `grad_norm` before clipping, `learning_rate` of the update, and `logit_scale` after it.

  Args:
    model: both towers.
    loss: of the global batch.
    optimizer: updates all parameters but frozen ones.
    lr_schedule: update number to learning rate, for the metrics.
    frozen: name prefixes of parameters whose gradients are not computed.
    dropout_seed: selects, with the step, the patches that `model.patch_dropout` removes; None keeps all patches.
    num_microbatches: see `loss_and_gradients`.
    mesh: devices of batch and parameters; None: one device.
  """
  global_loss = loss if mesh is None else sharding.sharded_loss(mesh, loss)
  if mesh is not None:
    model = with_heads_sharding(model, sharding.heads_sharding(mesh))

  def contrast(features: FeatureBatch, scale: Float[Array, ""]) -> Float[Array, ""]:
    return global_loss(features, jax.lax.stop_gradient(scale) if is_frozen("logit_scale", frozen) else scale)

  def embed(params: optax.Params, batch: Batch, key: Key[Array, ""] | None) -> FeatureBatch:
    params = stop_frozen_gradients(params, frozen)
    return embed_batch(model, loss, params if mesh is None else sharding.gather_params(mesh, params), batch, key)

  def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
    key = None
    if model.vision.patch_dropout and dropout_seed is not None:
      key = jax.random.fold_in(jax.random.key(dropout_seed), state.step)
    value, grads = loss_and_gradients(embed, contrast, state.params, batch, key, num_microbatches)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    metrics = {
      "loss": value,
      "grad_norm": optax.global_norm(grads),
      "learning_rate": lr_schedule(state.step + 1),
      "logit_scale": params["logit_scale"],
    }
    return state.replace(step=state.step + 1, params=params, opt_state=opt_state), metrics

  return step


def jit_train_step(
  config: ConfigDict,
  model: ClipVip,
  loss: Loss,
  optimizer: optax.GradientTransformation,
  lr_schedule: optax.Schedule,
  mesh: Mesh,
  state: TrainState,
  *,
  drop_patches: bool = True,
) -> JittedTrainStep:
  """Jits the step of a configuration on a mesh, for training and for ahead-of-time compilation.

  Args:
    config: the whole configuration.
    model: see `make_train_step`, as for loss, optimizer, lr_schedule and mesh.
    loss: of the global batch.
    optimizer: of config.optimizer.
    lr_schedule: of config.optimizer.
    mesh: of config.mesh.
    state: a state or an abstract state, for the shardings; the step donates its state.
    drop_patches: whether `model.patch_dropout` applies.
  """
  step = make_train_step(
    model,
    loss,
    optimizer,
    lr_schedule,
    frozen=config.optimizer.frozen,
    dropout_seed=config.seed if drop_patches else None,
    num_microbatches=config.train.num_microbatches,
    mesh=mesh,
  )

  def averaged_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
    state, metrics = step(state, batch)
    return update_average(state, config), metrics

  shardings = sharding.state_shardings(mesh, state)
  return jax.jit(
    averaged_step if config.train.ema else step,
    in_shardings=(shardings, sharding.batch_sharding(mesh)),
    out_shardings=(shardings, sharding.replicated(mesh)),
    donate_argnums=0,
  )
