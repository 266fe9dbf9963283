"""The published checkpoints' names and layouts <-> our parameters.

CLIP-ViP's checkpoints carry HuggingFace CLIP's names behind the prefix `clipmodel.`, and two tensors of their own:
`added_cls` and `temporal_embedding`. A plain CLIP has neither. PyTorch keeps dense kernels as [out, in] and the
patch convolution as [out, 3, P, P]; ours are [in, out] and [P, P, 3, out].

Parameters are addressed by name here: {"vision/transformer/block_0/mlp/up/kernel": array}.
"""

import re
from collections.abc import Mapping

import numpy as np
from flax import traverse_util

from clipvip_jax.utils.errors import UserError
from clipvip_jax.weights.mmap_file import printable_value

PREFIX = "clipmodel."
WRAPPER = "module."  # what PyTorch's data-parallel training puts before every name

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
_LAYER = re.compile(r"(text|vision)_model\.encoder\.layers\.([0-9]{1,4})\.(.+)")
_OUR_LAYER = re.compile(r"(text|vision)/transformer/block_(\d+)/(.+)/(\w+)")
_BLOCK_BACK, _MODULES_BACK, _TENSORS_BACK = ({v: k for k, v in t.items()} for t in (_BLOCK, _MODULES, _TENSORS))

# Tensors by which checkpoints of other architectures are known.
_FOREIGN = {
  "visual.layer1.0.conv1.weight": "a ResNet CLIP",
  "logit_bias": "SigLIP",
  "vision_model.head.probe": "SigLIP",
  "text_encoder.embeddings.word_embeddings.weight": "a model with a BERT text tower",
}


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


def published_name(name: str) -> str:
  """The published name, without a prefix, of our parameter `name`; the inverse of `our_name`."""
  if name in _TENSORS_BACK:
    return _TENSORS_BACK[name]
  layer = _OUR_LAYER.fullmatch(name)
  if layer:
    module, kind = f"{layer[1]}_model.encoder.layers.{layer[2]}.{_BLOCK_BACK[layer[3]]}", layer[4]
  else:
    ours, _, kind = name.rpartition("/")
    module = _MODULES_BACK[ours]
  return f"{module}.bias" if kind == "bias" else f"{module}.weight"


def published_layout(name: str, value: np.ndarray) -> np.ndarray:
  """The inverse of `our_layout`."""
  if name.endswith("/kernel"):
    return value.T
  if name == "vision/patch_embedding":
    return value.transpose(3, 2, 0, 1)
  if name == "vision/time_embedding":
    return value[None]
  return value


def to_flat(tensors: Mapping[str, np.ndarray], source: str) -> dict[str, np.ndarray]:
  """Published tensors -> {our name: array}, as views in the tensors' own types.

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
      unknown.append(f"{printable_value(name)} {tuple(tensor.shape)}")
    elif ours in params:
      raise UserError(f"{source}: {printable_value(name)} is the second tensor for {ours}")
    else:
      params[ours] = our_layout(ours, tensor)
  if unknown:
    kind = next((kind for name, kind in _FOREIGN.items() if name in tensors), "")
    looks = f" (it looks like {kind}; only CLIP with a vision transformer can be read)" if kind else ""
    raise UserError(f"{source}: {len(unknown)} tensors are no part of CLIP or CLIP-ViP{looks}: {', '.join(unknown)}")
  return params


def to_params(tensors: Mapping[str, np.ndarray], source: str) -> dict:
  """`to_flat` as a nested tree of float32 arrays."""
  flat = {name: np.asarray(x, np.float32, order="C") for name, x in to_flat(tensors, source).items()}
  return traverse_util.unflatten_dict(flat, sep="/")


def from_flat(params: Mapping[str, np.ndarray], prefix: str = "") -> dict[str, np.ndarray]:
  """{our name: array} -> published tensors, with the buffers of position numbers that PyTorch's load_state_dict wants.

  Args:
    params: all parameters of a model.
    prefix: PREFIX for CLIP-ViP's checkpoints, "" for CLIP's.
  """
  tensors = {}
  for name, value in params.items():
    published = published_layout(name, np.asarray(value))
    tensors[prefix + published_name(name)] = np.ascontiguousarray(published).reshape(published.shape)
  for tower in ("text", "vision"):
    count = len(params[f"{tower}/position_embedding"])
    tensors[f"{prefix}{tower}_model.embeddings.position_ids"] = np.arange(count, dtype=np.int64)[None]
  return tensors
