"""Export to the layouts of CLIP-ViP's published checkpoints, HuggingFace CLIP and OpenCLIP."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from clipvip_jax.utils import atomic_write
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import log
from clipvip_jax.weights import names_clip_vip, names_openclip, pixel_normalization
from clipvip_jax.weights.config_files import OWN_SECTION
from clipvip_jax.weights.model_config import TOKENIZER_FILE, Hints, to_metadata
from clipvip_jax.weights.sources import CLIP_VIP_PARAMS, SEQUENCE_PREFIX, Weights

_PROXIES = "vision/added_proxies"
# Suffixes of files of weights that are not written; a name with another suffix, as clip-vip-v1.2, is that of a folder.
_OTHER_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".tar", ".zip", ".npz", ".h5", ".onnx", ".msgpack", ".gguf", ".json")
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
  if layout == "clip_vip":
    if _PROXIES not in params:  # CLIP-ViP's code has the parameter for any number of proxies
      width = params["vision/class_embedding"].shape[-1]
      params = {**params, _PROXIES: np.zeros((0, width), np.float32)}
    return names_clip_vip.from_flat(params, names_clip_vip.PREFIX)
  tensors = names_clip_vip.from_flat(params, position_ids=False)
  return names_openclip.from_published(tensors) if layout == "openclip" else tensors


def export_weights(
  weights: Weights, target: pathlib.Path, layout: str, *, overwrite: bool = False
) -> list[pathlib.Path]:
  """Writes a .safetensors file, or a folder of weights, configuration and tokenizer, each file atomically.

  What a run's weights need to compute the same features (temporal, frames of a clip, length of a text) is in the
  metadata of the file and in the configuration.

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
  if layout not in LAYOUTS:
    raise UserError(f"layout {layout!r} is unknown; allowed: {', '.join(LAYOUTS)}")
  is_file = _is_file(target)
  tokenizer = _tokenizer_file(weights)
  name, config_name = LAYOUTS[layout]
  path = target if is_file else target / name
  files = [path] if is_file else [path, target / config_name, *([target / TOKENIZER_FILE] if tokenizer else [])]
  existing = [str(file) for file in files if file.exists()]
  if existing and not overwrite:
    raise UserError(f"{', '.join(existing)} already exists; use another target, or add --overwrite")
  normalization = pixel_normalization.read_normalization(path.parent)
  if normalization is not None and not pixel_normalization.is_clip(normalization):
    raise UserError(
      f"{path.parent} has files that state another normalization of pixels than that of exported weights, which is"
      " CLIP's; use another folder"
    )
  tensors = to_layout(weights.params, layout, weights.source)
  hints = _hints(weights, tokenizer)
  if layout != "clip_vip" and hints.temporal != "mean":
    log.warning("layout %s: other programs read a CLIP of images, without temporal=%r", layout, hints.temporal)
  if is_file and tokenizer:
    log.warning("%s: a file does not hold the tokenizer; export to a folder to embed texts", target)
  try:
    _write(files, tensors, hints, _layout_config(weights.config, layout), tokenizer)
  except OSError as error:
    raise UserError(f"target {str(target)!r} cannot be written: {error.strerror or error}") from error
  return files


def _write(
  files: Sequence[pathlib.Path],
  tensors: dict[str, np.ndarray],
  hints: Hints,
  config: dict[str, Any],
  tokenizer: pathlib.Path | None,
) -> None:
  """Writes the tensors to the first file, and configuration and tokenizer to the others."""
  from safetensors.numpy import save

  metadata = to_metadata(hints)
  # transformers refuses a file without a format.
  contents = [save(tensors, metadata={"format": "pt", **metadata})]
  config[OWN_SECTION] = {name.removeprefix(f"{OWN_SECTION}."): value for name, value in metadata.items()}
  contents.append(f"{json.dumps(config, indent=2)}\n".encode())
  if tokenizer:
    contents.append(tokenizer.read_bytes())
  files[0].parent.mkdir(parents=True, exist_ok=True)
  for path, content in zip(files, contents, strict=False):
    with atomic_write.atomic_path(path) as temporary:
      temporary.write_bytes(content)


def _is_file(target: pathlib.Path) -> bool:
  """Returns whether a target is a file, which the suffix of a file of weights makes it, and not a folder."""
  if target.is_dir():
    return False
  if target.suffix in _OTHER_SUFFIXES:
    raise UserError(f"target {str(target)!r} has the suffix {target.suffix}; use FILE.safetensors or a folder")
  return target.suffix == ".safetensors"


def _tokenizer_file(weights: Weights) -> pathlib.Path | None:
  """Returns the file of the tokenizer that the weights were trained with; None for CLIP's, and if it is unknown."""
  name = weights.tokenizer or ("" if weights.run is None else weights.run.data.get("tokenizer", ""))
  path = pathlib.Path(name)
  return path if name and path.is_file() else None


def _hints(weights: Weights, tokenizer: pathlib.Path | None) -> Hints:
  """Returns what reading the weights back needs and shapes do not determine."""
  config = weights.config
  return Hints(
    activation=config.activation,
    vision_heads=config.vision.heads,
    text_heads=config.text.heads,
    temporal=weights.temporal,
    num_frames=weights.num_frames,
    text_length=weights.text_length,
    tokenizer=TOKENIZER_FILE if tokenizer and (weights.run is not None or weights.hints.tokenizer) else None,
  )


def _layout_config(config: ConfigDict, layout: str) -> dict[str, Any]:
  """Returns `config.model` as the configuration of a layout."""
  if layout == "openclip":
    return _openclip_config(config)
  if layout == "clip":
    return {"architectures": ["CLIPModel"], "model_type": "clip", **_huggingface_config(config)}
  # Not a class of transformers: with its CLIPModel, whose tensors have other names, it would build random weights.
  return {"model_type": "clip_vip", **_huggingface_config(config)}


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
