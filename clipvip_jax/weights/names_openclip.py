"""OpenCLIP's names and layouts <-> HuggingFace CLIP's. OpenAI's own checkpoints have the same names.

OpenCLIP keeps query, key and value of a block in one fused matrix, and both projections as [in, out].
"""

import re
from collections.abc import Mapping

import numpy as np

from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import printable

_LAYER = re.compile(r"(visual\.)?transformer\.resblocks\.(\d+)\.(.+)")
_PUBLISHED_LAYER = re.compile(r"(text|vision)_model\.encoder\.layers\.(\d+)\.(.+)")
_BLOCK = {
  "ln_1.weight": "layer_norm1.weight",
  "ln_1.bias": "layer_norm1.bias",
  "ln_2.weight": "layer_norm2.weight",
  "ln_2.bias": "layer_norm2.bias",
  "attn.out_proj.weight": "self_attn.out_proj.weight",
  "attn.out_proj.bias": "self_attn.out_proj.bias",
  "mlp.c_fc.weight": "mlp.fc1.weight",
  "mlp.c_fc.bias": "mlp.fc1.bias",
  "mlp.c_proj.weight": "mlp.fc2.weight",
  "mlp.c_proj.bias": "mlp.fc2.bias",
}
_TENSORS = {
  "logit_scale": "logit_scale",
  "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
  "positional_embedding": "text_model.embeddings.position_embedding.weight",
  "ln_final.weight": "text_model.final_layer_norm.weight",
  "ln_final.bias": "text_model.final_layer_norm.bias",
  "text_projection": "text_projection.weight",
  "visual.class_embedding": "vision_model.embeddings.class_embedding",
  "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
  "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
  "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
  "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
  "visual.ln_post.weight": "vision_model.post_layernorm.weight",
  "visual.ln_post.bias": "vision_model.post_layernorm.bias",
  "visual.proj": "visual_projection.weight",
}
_BLOCK_INVERSE, _TENSORS_INVERSE = ({v: k for k, v in table.items()} for table in (_BLOCK, _TENSORS))
_PROJECTIONS = ("text_projection", "visual.proj")
_IN_PROJECTION = re.compile(r"attn\.in_proj_(weight|bias)")
_HEADS = ("q_proj", "k_proj", "v_proj")

_HIDDEN = -1e4  # or less in a mask: minus infinity, or the least value of a type

# OpenAI's files hold the causal mask and sizes as tensors.
UNUSED = ("attn_mask", "input_resolution", "context_length", "vocab_size")


def is_openclip(tensors: Mapping[str, np.ndarray]) -> bool:
  """Returns whether tensors have OpenCLIP's names."""
  return "positional_embedding" in tensors or "text.positional_embedding" in tensors


def to_published(tensors: Mapping[str, np.ndarray], source: str) -> dict[str, np.ndarray]:
  """Renames OpenCLIP's tensors to HuggingFace CLIP's names, as views. Unknown names are kept.

  Raises:
    UserError: two tensors for one name, a fused matrix that cannot be split in three, or a mask that is not causal.
  """
  renamed: dict[str, np.ndarray] = {}

  def add(name: str, tensor: np.ndarray) -> None:
    if name in renamed:
      raise UserError(f"{source}: two tensors for {printable(name, 160)}; remove one of them")
    renamed[name] = tensor

  for full_name, tensor in tensors.items():
    name = full_name.removeprefix("text.")  # newer files keep the text tower in a submodule
    layer = _LAYER.fullmatch(name)
    if name in UNUSED:
      if name == "attn_mask" and not _is_causal(tensor):
        raise UserError(f"{source}: {printable(full_name, 160)} is not a causal mask, CLIP's; others are not supported")
      continue
    if name in _TENSORS:
      add(_TENSORS[name], tensor.T if name in _PROJECTIONS else tensor)
    elif layer and layer[3] in _BLOCK:
      add(f"{_block(layer)}.{_BLOCK[layer[3]]}", tensor)
    elif layer and (fused := _IN_PROJECTION.fullmatch(layer[3])):
      if not tensor.ndim or len(tensor) % 3:
        raise UserError(f"{source}: {full_name} {tensor.shape} cannot be split into query, key and value of equal size")
      for head, part in zip(_HEADS, np.split(tensor, 3), strict=True):
        add(f"{_block(layer)}.self_attn.{head}.{fused[1]}", part)
    else:
      add(full_name, tensor)
  return renamed


def _is_causal(mask: np.ndarray) -> bool:
  """Returns whether an additive mask [N, N] hides all later tokens and nothing else."""
  if mask.ndim != 2 or len(set(mask.shape)) > 1:
    return False
  later = np.arange(len(mask)) > np.arange(len(mask))[:, None]
  return bool((mask[later] <= _HIDDEN).all() and not mask[~later].any())


def _block(layer: re.Match[str]) -> str:
  return f"{'vision' if layer[1] else 'text'}_model.encoder.layers.{layer[2]}"


def from_published(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Inverts `to_published`, without the position id buffers, which OpenCLIP does not have."""
  renamed: dict[str, np.ndarray] = {}
  for name, tensor in tensors.items():
    layer = _PUBLISHED_LAYER.fullmatch(name)
    if name in _TENSORS_INVERSE:
      openclip = _TENSORS_INVERSE[name]
      renamed[openclip] = np.ascontiguousarray(tensor.T) if openclip in _PROJECTIONS else tensor
    elif layer:
      block = f"{'visual.' if layer[1] == 'vision' else ''}transformer.resblocks.{layer[2]}"
      if layer[3] in _BLOCK_INVERSE:
        renamed[f"{block}.{_BLOCK_INVERSE[layer[3]]}"] = tensor
      elif layer[3].startswith("self_attn.q_proj."):
        kind = layer[3].rpartition(".")[2]
        fused = [tensors[name.replace("q_proj", head)] for head in _HEADS]
        renamed[f"{block}.attn.in_proj_{kind}"] = np.concatenate(fused)
  return renamed
