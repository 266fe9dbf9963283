"""Our parameters as files that others read: CLIP-ViP's published layout, HuggingFace CLIP's, and OpenCLIP's."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from clipvip_jax.utils import atomic_write
from clipvip_jax.utils.errors import UserError
from clipvip_jax.weights import names_clip_vip, names_openclip
from clipvip_jax.weights.model_config import metadata_of
from clipvip_jax.weights.sources import ADDED, SEQUENCE, Weights

# What a folder of each layout holds: the weights, and what says the rest.
LAYOUTS = {
  "clip_vip": ("model.safetensors", "config.json"),
  "clip": ("model.safetensors", "config.json"),
  "openclip": ("open_clip_model.safetensors", "open_clip_config.json"),
}


def to_layout(params: Mapping[str, np.ndarray], layout: str, source: str) -> dict[str, np.ndarray]:
  """Tensors under a layout's names, float32.

  Args:
    params: {our name: array}, all of a model's.
    layout: a key of LAYOUTS.
    source: for messages.

  Raises:
    UserError: the layout has no place for added proxies or a time embedding.
  """
  if any(name.startswith(SEQUENCE) for name in params):
    raise UserError(f"{source}: no layout holds a transformer over frames (model.temporal='sequence'); use the workdir")
  added = [name for name in ADDED if name in params]
  if layout != "clip_vip" and added:
    raise UserError(f"{source}: layout {layout!r} cannot hold {' and '.join(added)}; allowed: clip_vip")
  if layout == "openclip":
    return names_openclip.from_published(names_clip_vip.from_flat(params))
  return names_clip_vip.from_flat(params, names_clip_vip.PREFIX if layout == "clip_vip" else "")


def export_weights(
  weights: Weights, target: pathlib.Path, layout: str, *, overwrite: bool = False
) -> list[pathlib.Path]:
  """Writes a .safetensors file, or a folder with the configuration beside the weights; returns the files.

  Args:
    weights: of any source.
    target: FILE.safetensors, or a folder.
    layout: a key of LAYOUTS.
    overwrite: whether files that are there may be replaced.

  Raises:
    UserError: the layout cannot hold the weights, or the target is there, has another suffix or cannot be written.
  """
  from safetensors.numpy import save

  if layout not in LAYOUTS:
    raise UserError(f"layout {layout!r} is unknown; allowed: {', '.join(LAYOUTS)}")
  if target.suffix and target.suffix != ".safetensors":
    raise UserError(f"target {str(target)!r}: weights are written to FILE.safetensors or to a folder")
  name, config_name = LAYOUTS[layout]
  path = target if target.suffix else target / name
  wanted = [path] if target.suffix else [path, target / config_name]
  there = [str(file) for file in wanted if file.exists()]
  if there and not overwrite:
    raise UserError(f"{', '.join(there)} is there already: name another target, or add --overwrite")
  tensors = to_layout(weights.params, layout, weights.source)
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write.atomic_path(path) as temporary:
      # Without a format transformers refuses the file.
      temporary.write_bytes(save(tensors, metadata={"format": "pt", **metadata_of(weights.config)}))
    if not target.suffix:
      with atomic_write.atomic_path(target / config_name) as temporary:
        temporary.write_text(json.dumps(_config(weights.config, layout), indent=2) + "\n", encoding="utf-8")
  except OSError as error:
    raise UserError(f"target {str(target)!r} cannot be written: {error.strerror or error}") from error
  return wanted


def _config(sizes: Any, layout: str) -> dict[str, Any]:
  return _openclip_config(sizes) if layout == "openclip" else _huggingface_config(sizes)


def _huggingface_config(sizes: Any) -> dict[str, Any]:
  def tower(config: Any) -> dict[str, Any]:
    return {
      "hidden_size": config.width,
      "intermediate_size": config.mlp,
      "num_hidden_layers": config.layers,
      "num_attention_heads": config.heads,
      "hidden_act": sizes.activation,
      "layer_norm_eps": 1e-5,
      "projection_dim": sizes.embed_dim,
    }

  text, vision = sizes.text, sizes.vision
  end = text.vocab_size - 1
  return {
    "architectures": ["CLIPModel"],
    "model_type": "clip",
    "projection_dim": sizes.embed_dim,
    "text_config": {
      **tower(text),
      "model_type": "clip_text_model",
      "vocab_size": text.vocab_size,
      "max_position_embeddings": text.positions,
      "bos_token_id": end - 1,
      "eos_token_id": end,
    },
    "vision_config": {
      **tower(vision),
      "model_type": "clip_vision_model",
      "image_size": sizes.image_size,
      "patch_size": sizes.patch_size,
    },
  }


def _openclip_config(sizes: Any) -> dict[str, Any]:
  text, vision = sizes.text, sizes.vision
  return {
    "model_cfg": {
      "embed_dim": sizes.embed_dim,
      "quick_gelu": sizes.activation == "quick_gelu",
      "vision_cfg": {
        "image_size": sizes.image_size,
        "layers": vision.layers,
        "width": vision.width,
        "head_width": vision.width // vision.heads,
        "mlp_ratio": vision.mlp / vision.width,
        "patch_size": sizes.patch_size,
      },
      "text_cfg": {
        "context_length": text.positions,
        "vocab_size": text.vocab_size,
        "width": text.width,
        "heads": text.heads,
        "layers": text.layers,
        "mlp_ratio": text.mlp / text.width,
      },
    }
  }
