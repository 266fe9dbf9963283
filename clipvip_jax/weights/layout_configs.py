"""Configuration files of published layouts: `config.model` as other programs read it."""

import math
from typing import Any

from ml_collections import ConfigDict

from clipvip_jax.input_pipeline.preprocessing import MEAN, STD

PREPROCESSOR_FILE = "preprocessor_config.json"


def model_config(config: ConfigDict, layout: str, end_token: int, crop: str = "squash") -> dict[str, Any]:
  """Returns the configuration of the model in a layout.

  Args:
    config: `config.model`.
    layout: "clip_vip", "clip" or "openclip".
    end_token: id at which the text tower pools; see `Hints.end_token`.
    crop: how frames become square, see `preprocessing.CROPS`.
  """
  if layout == "openclip":
    preprocess = {"mean": list(MEAN), "std": list(STD), "interpolation": "bicubic"}
    preprocess["resize_mode"] = "squash" if crop == "squash" else "shortest"  # then OpenCLIP crops the centre
    return {**_openclip_config(config), "preprocess_cfg": preprocess}
  huggingface = _huggingface_config(config, end_token)
  if layout == "clip":
    return {"architectures": ["CLIPModel"], "model_type": "clip", **huggingface}
  # Not a class of transformers: with its CLIPModel, whose tensors have other names, it would build random weights.
  return {"model_type": "clip_vip", **huggingface}


def preprocessor_config(config: ConfigDict, crop: str = "squash") -> dict[str, Any]:
  """Returns HuggingFace's preprocessor_config.json: frames become square by `crop`, with CLIP's normalization."""
  square = {"height": config.image_size, "width": config.image_size}
  size = {"size": square, "do_center_crop": False}
  if crop == "center":
    size = {"size": {"shortest_edge": config.image_size}, "do_center_crop": True, "crop_size": square}
  return {
    "image_processor_type": "CLIPImageProcessor",
    "do_convert_rgb": True,
    "do_resize": True,
    **size,
    "resample": 3,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": list(MEAN),
    "image_std": list(STD),
  }


def _huggingface_config(config: ConfigDict, end_token: int) -> dict[str, Any]:
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
  return {
    "projection_dim": config.embed_dim,
    "text_config": {
      **tower_config(text),
      "model_type": "clip_text_model",
      "vocab_size": text.vocab_size,
      "max_position_embeddings": text.positions,
      "bos_token_id": text.vocab_size - 2,
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
        "mlp_ratio": _mlp_ratio(vision),
        "patch_size": config.patch_size,
      },
      "text_cfg": {
        "context_length": text.positions,
        "vocab_size": text.vocab_size,
        "width": text.width,
        "heads": text.heads,
        "layers": text.layers,
        "mlp_ratio": _mlp_ratio(text),
      },
    },
  }


def _mlp_ratio(tower: ConfigDict) -> float:
  """Returns the ratio by which OpenCLIP multiplies the width; it truncates the product."""
  ratio = tower.mlp / tower.width
  return ratio if int(tower.width * ratio) == tower.mlp else math.nextafter(ratio, math.inf)
