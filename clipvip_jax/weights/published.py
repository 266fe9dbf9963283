"""The published checkpoints' names and layouts <-> our parameter tree.

CLIP-ViP's checkpoints carry HuggingFace CLIP's names behind the prefix `clipmodel.`, and two tensors of their own:
`added_cls` and `temporal_embedding`. A plain CLIP has neither. PyTorch keeps dense kernels as [out, in] and the
patch convolution as [out, 3, P, P]; ours are [in, out] and [P, P, 3, out].
"""

import re
from collections.abc import Mapping

import numpy as np
from flax import traverse_util

from clipvip_jax.errors import UserError

PREFIX = "clipmodel."

# Buffers that hold 0, 1, 2, ...: nothing to load.
UNUSED = re.compile(r"(text|vision)_model\.embeddings\.position_ids$")

_BLOCK = {
  "layer_norm1": "attention_norm",
  "layer_norm2": "mlp_norm",
  "self_attn.q_proj": "attention/query",
  "self_attn.k_proj": "attention/key",
  "self_attn.v_proj": "attention/value",
  "self_attn.out_proj": "attention/out",
  "mlp.fc1": "mlp/up",
  "mlp.fc2": "mlp/down",
}
_MODULES = {
  "text_model.final_layer_norm": "text/final_norm",
  "text_projection": "text/projection",
  "vision_model.pre_layrnorm": "vision/pre_norm",  # spelt so in every published checkpoint
  "vision_model.post_layernorm": "vision/post_norm",
  "visual_projection": "vision/projection",
}
_TENSORS = {
  "logit_scale": "logit_scale",
  "text_model.embeddings.token_embedding.weight": "text/token_embedding",
  "text_model.embeddings.position_embedding.weight": "text/position_embedding",
  "vision_model.embeddings.class_embedding": "vision/class_embedding",
  "vision_model.embeddings.added_cls": "vision/added_proxies",
  "vision_model.embeddings.position_embedding.weight": "vision/position_embedding",
  "vision_model.embeddings.patch_embedding.weight": "vision/patch_embedding",
  "vision_model.embeddings.temporal_embedding": "vision/time_embedding",
}
_LAYER = re.compile(r"(text|vision)_model\.encoder\.layers\.(\d+)\.(.+)")


def our_name(name: str) -> str | None:
  """The parameter that a published tensor fills, as `vision/transformer/block_0/mlp/up/kernel`; None: no such."""
  name = name.removeprefix(PREFIX)
  if name in _TENSORS:
    return _TENSORS[name]
  module, _, kind = name.rpartition(".")
  layer = _LAYER.fullmatch(module)
  if layer and layer[3] in _BLOCK:
    ours = f"{layer[1]}/transformer/block_{layer[2]}/{_BLOCK[layer[3]]}"
  elif module in _MODULES:
    ours = _MODULES[module]
  else:
    return None
  if kind == "bias":
    return f"{ours}/bias"
  if kind == "weight":
    return f"{ours}/scale" if ours.endswith("_norm") else f"{ours}/kernel"
  return None


def our_layout(name: str, tensor: np.ndarray) -> np.ndarray:
  """A published tensor in the layout of our parameter `name`; one of another rank as it is, for a check to refuse."""
  if name.endswith("/kernel"):
    return tensor.T
  if name == "vision/patch_embedding" and tensor.ndim == 4:
    return tensor.transpose(2, 3, 1, 0)
  if name == "vision/time_embedding" and tensor.ndim == 3 and len(tensor) == 1:  # published as [1, T0, D]
    return tensor[0]
  return tensor


def to_params(tensors: Mapping[str, np.ndarray], source: str) -> dict:
  """Published tensors -> our nested parameter tree, float32.

  Args:
    tensors: by published name, with or without the prefix `clipmodel.`.
    source: where they come from, for messages.

  Raises:
    UserError: a name that has no place in the model; every such name is listed.
  """
  params, unknown = {}, []
  for name, tensor in tensors.items():
    if UNUSED.search(name):
      continue
    ours = our_name(name)
    if ours is None:
      unknown.append(f"{name} {tuple(tensor.shape)}")
    else:
      params[ours] = np.asarray(our_layout(ours, np.asarray(tensor, np.float32)), order="C")
  if unknown:
    raise UserError(f"{source}: {len(unknown)} tensors are no part of CLIP or CLIP-ViP: {', '.join(unknown)}")
  return traverse_util.unflatten_dict(params, sep="/")
