"""Communication that the method needs in a training step, counted from the configuration."""

import math

from flax import traverse_util
from jax.sharding import Mesh
from ml_collections import ConfigDict

from clipvip_jax.cost_model.collective import ALL_GATHER, ALL_REDUCE, REDUCE_SCATTER, Collective
from clipvip_jax.distributed import sharding
from clipvip_jax.models.clip_vip import Params
from clipvip_jax.training import optimizer
from clipvip_jax.training.losses import LOSSES


def required_collectives(config: ConfigDict, mesh: Mesh, params: Params) -> list[Collective]:
  """Returns the collectives that the method needs.

  Every gradient is all-reduced once, features are all-gathered once and their gradients reduce-scattered once. On an
  fsdp axis, parameters are all-gathered for the forward pass and kept for the backward pass, and gradients are
  reduce-scattered before they are all-reduced over data. On a tensor axis, the attention and the MLP of each block
  all-reduce their output and the gradient of their input once.

  Args:
    config: the complete configuration.
    mesh: of the devices.
    params: the parameters or their shapes.
  """
  data, fsdp = mesh.shape[sharding.DATA], mesh.shape[sharding.FSDP]
  required = [*_of_features(config, data * fsdp), *_of_parameters(config, mesh, params)]
  if mesh.shape[sharding.TENSOR] > 1:
    required += _of_blocks(config, mesh)
  return [collective for collective in required if collective.group > 1 and collective.size]


def _of_features(config: ConfigDict, group: int) -> list[Collective]:
  uses, batch = LOSSES[config.loss].uses, config.train.batch_size
  features = 4 * batch * config.model.embed_dim
  masks = len(uses & {"subtitle", "caption"}) * batch
  return [
    Collective(ALL_GATHER, len(uses) * features + masks, group, origin="features and masks"),
    Collective(REDUCE_SCATTER, len(uses) * features, group, origin="gradients of features"),
  ]


def _of_parameters(config: ConfigDict, mesh: Mesh, params: Params) -> list[Collective]:
  """Counts a parameter split over fsdp apart from a replicated one; both after the split over tensor."""
  data, fsdp = mesh.shape[sharding.DATA], mesh.shape[sharding.FSDP]
  passes = 1 + (config.train.num_microbatches > 1)
  summed, scattered, gathered = {1: 0, fsdp: 0}, 0, 0
  for name, x in traverse_util.flatten_dict(params, sep="/").items():
    spec = sharding.partition_spec(name, x.shape, mesh)
    held = 4 * math.prod(x.shape) // (mesh.shape[sharding.TENSOR] if sharding.TENSOR in spec else 1)
    trained = not optimizer.is_frozen(name, config.optimizer.frozen)
    if sharding.FSDP in spec and fsdp > 1:
      gathered += passes * held
      scattered += trained * held
      summed[fsdp] += trained * held // fsdp
    else:
      summed[1] += trained * held
  return [
    Collective(ALL_GATHER, gathered, fsdp, origin="parameters"),
    Collective(REDUCE_SCATTER, scattered, fsdp, origin="gradients"),
    Collective(ALL_REDUCE, summed[1], data * fsdp, origin="gradients"),
    *([Collective(ALL_REDUCE, summed[fsdp], data, origin="scattered gradients")] if fsdp > 1 else []),
  ]


def _of_blocks(config: ConfigDict, mesh: Mesh) -> list[Collective]:
  model, uses = config.model, LOSSES[config.loss].uses
  clips = config.train.batch_size // (mesh.shape[sharding.DATA] * mesh.shape[sharding.FSDP])
  patches, proxies = (model.image_size // model.patch_size) ** 2, 1 + model.vision.added_proxies
  frames = {"video": config.data.num_frames, "frame": 1}
  tokens = {name: proxies + count * patches for name, count in frames.items()}
  tokens |= dict.fromkeys(("subtitle", "caption"), config.data.text_length)
  towers = {"video": model.vision, "frame": model.vision, "subtitle": model.text, "caption": model.text}
  itemsize = 2 if model.dtype == "bfloat16" else 4
  size = 0
  for name in uses:
    # The last block all-reduces one token three times, and the gradients of all its keys and values.
    rows = 4 * (towers[name].layers - 1) * tokens[name] + tokens[name] + 3
    size += rows * towers[name].width * clips * itemsize
  return [Collective(ALL_REDUCE, size, mesh.shape[sharding.TENSOR], origin="outputs of attention and MLP")]
