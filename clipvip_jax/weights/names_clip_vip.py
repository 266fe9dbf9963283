"""Names and layouts of published CLIP-ViP and HuggingFace CLIP checkpoints <-> parameters of the model.

CLIP-ViP's checkpoints have HuggingFace CLIP's names with the prefix `clipmodel.`, and two additional tensors:
`added_cls` and `temporal_embedding`. PyTorch keeps dense kernels as [out, in] and the patch convolution as
[out, 3, P, P]; the model has [in, out] and [P, P, 3, out].

Parameters are flat here: {"vision/transformer/block_0/mlp/up/kernel": array}.
"""

import re
from collections.abc import Mapping

import numpy as np

from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import list_first, printable
from clipvip_jax.weights import architectures

PREFIX = "clipmodel."

# Buffers of position ids, which are not loaded: they must be 0, 1, 2, ...
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
  "vision_model.pre_layrnorm": "vision/pre_norm",  # sic, in every published checkpoint
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
_BLOCK_PARAM = re.compile(r"(text|vision)/transformer/block_(\d+)/(.+)/(\w+)")
_BLOCK_INVERSE, _MODULES_INVERSE, _TENSORS_INVERSE = (
  {v: k for k, v in t.items()} for t in (_BLOCK, _MODULES, _TENSORS)
)

_LISTED = 5  # tensors in a message
_REMEDY = "use a CLIP with a vision transformer, with both towers"


def param_name(name: str) -> str | None:
  """Returns the parameter of a published tensor, as `vision/transformer/block_0/mlp/up/kernel`; None if unknown."""
  name = name.removeprefix(PREFIX)
  if name in _TENSORS:
    return _TENSORS[name]
  module, _, kind = name.rpartition(".")
  layer = _LAYER.fullmatch(module)
  if layer and layer[3] in _BLOCK:
    param = f"{layer[1]}/transformer/block_{layer[2]}/{_BLOCK[layer[3]]}"
  elif module in _MODULES:
    param = _MODULES[module]
  else:
    return None
  if kind == "bias":
    return f"{param}/bias"
  if kind == "weight":
    return f"{param}/scale" if param.endswith("_norm") else f"{param}/kernel"
  return None


def to_param_layout(name: str, tensor: np.ndarray) -> np.ndarray:
  """Returns a published tensor in the layout of the parameter `name`; unchanged if its rank is wrong."""
  if name.endswith("/kernel"):
    return tensor.T
  if name == "vision/patch_embedding" and tensor.ndim == 4:
    return tensor.transpose(2, 3, 1, 0)
  if name == "vision/time_embedding" and tensor.ndim == 3 and len(tensor) == 1:  # published as [1, T0, D]
    return tensor[0]
  return tensor


def published_name(name: str) -> str:
  """Returns the published name, without prefix, of the parameter `name`; the inverse of `param_name`."""
  if name in _TENSORS_INVERSE:
    return _TENSORS_INVERSE[name]
  layer = _BLOCK_PARAM.fullmatch(name)
  if layer:
    module, kind = f"{layer[1]}_model.encoder.layers.{layer[2]}.{_BLOCK_INVERSE[layer[3]]}", layer[4]
  else:
    parent, _, kind = name.rpartition("/")
    module = _MODULES_INVERSE[parent]
  return f"{module}.bias" if kind == "bias" else f"{module}.weight"


def to_published_layout(name: str, value: np.ndarray) -> np.ndarray:
  """Inverts `to_param_layout`."""
  if name.endswith("/kernel"):
    return value.T
  if name == "vision/patch_embedding":
    return value.transpose(3, 2, 0, 1)
  if name == "vision/time_embedding":
    return value[None]
  return value


def to_flat(tensors: Mapping[str, np.ndarray], source: str) -> dict[str, np.ndarray]:
  """Converts published tensors to {parameter name: array}, as views in their own dtypes.

  Args:
    tensors: by published name, with or without the prefix `clipmodel.`.
    source: their SOURCE, for error messages.

  Raises:
    UserError: tensors that are not part of the model, or one tower alone; the message counts them, names the first, and
      describes the architecture that they look like. Or position ids other than 0, 1, 2, ...
  """
  params, unknown = {}, []
  for name, tensor in tensors.items():
    if UNUSED.search(name):
      # Compared in their type: bfloat16 rounds ids above 256.
      if not np.array_equal(tensor.ravel(), np.arange(tensor.size).astype(tensor.dtype)):
        raise UserError(f"{source}: {printable(name, 160)} is not 0, 1, 2, ...; other position ids are not supported")
      continue
    param = param_name(name)
    if param is None:
      unknown.append(f"{printable(name, 160)} {tuple(tensor.shape)}")
    elif param in params:
      raise UserError(f"{source}: {printable(name, 160)} is a second tensor for {param}; remove one of them")
    else:
      params[param] = to_param_layout(param, tensor)
  if unknown:
    architecture = architectures.describe(tensors)
    hint = f" (the file looks like {architecture}; {_REMEDY})" if architecture else ""
    listed = list_first(unknown, _LISTED)
    raise UserError(f"{source}: {len(unknown)} tensors are not part of CLIP or CLIP-ViP{hint}: {listed}")
  if (tower := architectures.lone_tower(tensors)) is not None:
    raise UserError(f"{source}: the file looks like {tower}; {_REMEDY}")
  return params


def from_flat(
  params: Mapping[str, np.ndarray], prefix: str = "", *, position_ids: bool = True
) -> dict[str, np.ndarray]:
  """Converts {parameter name: array} to published tensors.

  Args:
    params: all parameters of a model.
    prefix: PREFIX for CLIP-ViP's checkpoints, "" for CLIP's.
    position_ids: whether to add the buffers of position ids. A strict load_state_dict of CLIP-ViP's code needs them; of
      transformers since 4.31, it refuses them.
  """
  tensors = {}
  for name, value in params.items():
    published = to_published_layout(name, np.asarray(value))
    tensors[prefix + published_name(name)] = np.ascontiguousarray(published).reshape(published.shape)
  for tower in ("text", "vision") if position_ids else ():
    count = len(params[f"{tower}/position_embedding"])
    tensors[f"{prefix}{tower}_model.embeddings.position_ids"] = np.arange(count, dtype=np.int64)[None]
  return tensors
