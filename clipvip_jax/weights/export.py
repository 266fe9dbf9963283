"""Export to the layouts of CLIP-ViP's published checkpoints, HuggingFace CLIP and OpenCLIP."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from clipvip_jax.utils import atomic_write
from clipvip_jax.utils.errors import UserError
from clipvip_jax.weights import names_clip_vip, names_openclip
from clipvip_jax.weights.model_config import to_metadata
from clipvip_jax.weights.sources import CLIP_VIP_PARAMS, SEQUENCE_PREFIX, Weights

# Files in a folder of each layout: the weights and their configuration.
LAYOUTS = {
  "clip_vip": ("model.safetensors", "config.json"),
  "clip": ("model.safetensors", "config.json"),
  "openclip": ("open_clip_model.safetensors", "open_clip_config.json"),
}


def to_layout(params: Mapping[str, np.ndarray], layout: str, source: str) -> dict[str, np.ndarray]:
  """Converts all parameters of a model to the float32 tensors of a layout.

  Args:
    params: {parameter name: array}.
    layout: a key of LAYOUTS.
    source: for error messages.

  Raises:
    UserError: the layout does not support the model's added proxies, time embedding or sequence transformer.
  """
  if any(name.startswith(SEQUENCE_PREFIX) for name in params):
    raise UserError(
      f"{source}: no layout supports the sequence transformer of model.temporal=sequence; use the workdir"
    )
  added = [name for name in CLIP_VIP_PARAMS if name in params]
  if layout != "clip_vip" and added:
    raise UserError(f"{source}: layout {layout!r} does not support {' and '.join(added)}; use layout clip_vip")
  if layout == "openclip":
    return names_openclip.from_published(names_clip_vip.from_flat(params))
  return names_clip_vip.from_flat(params, names_clip_vip.PREFIX if layout == "clip_vip" else "")


def export_weights(
  weights: Weights, target: pathlib.Path, layout: str, *, overwrite: bool = False
) -> list[pathlib.Path]:
  """Writes a .safetensors file, or a folder of weights and configuration, each file atomically.

  Args:
    weights: of any SOURCE.
    target: FILE.safetensors or a folder.
    layout: a key of LAYOUTS.
    overwrite: whether to replace existing files.

  Returns:
    The written files.

  Raises:
    UserError: the layout does not support the weights, or the target exists, has another suffix or cannot be written.
  """
  from safetensors.numpy import save

  if layout not in LAYOUTS:
    raise UserError(f"layout {layout!r} is unknown; allowed: {', '.join(LAYOUTS)}")
  if target.suffix and target.suffix != ".safetensors":
    raise UserError(f"target {str(target)!r} has the suffix {target.suffix}; use FILE.safetensors or a folder")
  name, config_name = LAYOUTS[layout]
  path = target if target.suffix else target / name
  files = [path] if target.suffix else [path, target / config_name]
  existing = [str(file) for file in files if file.exists()]
  if existing and not overwrite:
    raise UserError(f"{', '.join(existing)} already exists; use another target, or add --overwrite")
  tensors = to_layout(weights.params, layout, weights.source)
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write.atomic_path(path) as temporary:
      # transformers refuses a file without a format.
      temporary.write_bytes(save(tensors, metadata={"format": "pt", **to_metadata(weights.config)}))
    if not target.suffix:
      with atomic_write.atomic_path(target / config_name) as temporary:
        temporary.write_text(json.dumps(_layout_config(weights.config, layout), indent=2) + "\n", encoding="utf-8")
  except OSError as error:
    raise UserError(f"target {str(target)!r} cannot be written: {error.strerror or error}") from error
  return files


def _layout_config(config: ConfigDict, layout: str) -> dict[str, Any]:
  """Returns `config.model` as the configuration of a layout."""
  return _openclip_config(config) if layout == "openclip" else _huggingface_config(config)


def _huggingface_config(config: ConfigDict) -> dict[str, Any]:
  def tower_config(tower: ConfigDict) -> dict[str, Any]:
    return {
      "hidden_size": tower.width,
      "intermediate_size": tower.mlp,
      "num_hidden_layers": tower.layers,
      "num_attention_heads": tower.heads,
      "hidden_act": config.activation,
      "layer_norm_eps": 1e-5,
      "projection_dim": config.embed_dim,
    }

  text, vision = config.text, config.vision
  end_token = text.vocab_size - 1
  return {
    "architectures": ["CLIPModel"],
    "model_type": "clip",
    "projection_dim": config.embed_dim,
    "text_config": {
      **tower_config(text),
      "model_type": "clip_text_model",
      "vocab_size": text.vocab_size,
      "max_position_embeddings": text.positions,
      "bos_token_id": end_token - 1,
      "eos_token_id": end_token,
    },
    "vision_config": {
      **tower_config(vision),
      "model_type": "clip_vision_model",
      "image_size": config.image_size,
      "patch_size": config.patch_size,
    },
  }


def _openclip_config(config: ConfigDict) -> dict[str, Any]:
  text, vision = config.text, config.vision
  return {
    "model_cfg": {
      "embed_dim": config.embed_dim,
      "quick_gelu": config.activation == "quick_gelu",
      "vision_cfg": {
        "image_size": config.image_size,
        "layers": vision.layers,
        "width": vision.width,
        "head_width": vision.width // vision.heads,
        "mlp_ratio": vision.mlp / vision.width,
        "patch_size": config.patch_size,
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
