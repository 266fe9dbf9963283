"""What the weights and the file beside them say about a model: the sizes of `config.model`.

Shapes tell all but two things: how many heads a tower has, and which activation. Files that we wrote say it themselves;
of others a config.json of HuggingFace or an open_clip_config.json beside the weights tells it; without one, CLIP's
convention of 64 a head holds, and the activation that the layout's publishers use.
"""

import dataclasses
import json
import math
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from clipvip_jax.models.transformer import ACTIVATIONS
from clipvip_jax.utils.errors import UserError

_HEAD_WIDTH = 64
_MLP_UP = re.compile(r"(text|vision)/transformer/block_([0-9]{1,4})/mlp/up/kernel")


@dataclasses.dataclass(frozen=True)
class Hints:
  """What a file says of weights; None where it does not. `sizes`: by name in `config.model`, to be checked."""

  activation: str | None = None
  vision_heads: int | None = None
  text_heads: int | None = None
  sizes: dict[str, int] = dataclasses.field(default_factory=dict)

  def __or__(self, other: "Hints") -> "Hints":
    """These, and where they say nothing, those of `other`."""
    return Hints(*(getattr(self, field.name) or getattr(other, field.name) for field in dataclasses.fields(self)))


# What a file of weights that we wrote says of itself -> the field of Hints.
_OWN = {f"clipvip_jax.{name}": name for name in ("activation", "vision_heads", "text_heads")}


def metadata_of(config: ConfigDict) -> dict[str, str]:
  """What no shape tells of `config.model`, for a file of weights: see `hints_from_metadata`."""
  values = config.activation, config.vision.heads, config.text.heads
  return dict(zip(_OWN, map(str, values), strict=True))


def hints_from_metadata(said: Mapping[str, str]) -> Hints:
  """Hints from what a file of weights says of itself.

  Raises:
    UserError: an activation or a number that cannot be.
  """
  found: dict[str, Any] = {field: said[name] for name, field in _OWN.items() if name in said}
  for field in ("vision_heads", "text_heads"):
    if field in found:
      found[field] = checked_size(
        int(found[field]) if re.fullmatch(r"[0-9]{1,9}", found[field]) else found[field], field
      )
  if found.get("activation", "gelu") not in ACTIVATIONS:
    raise UserError(f"activation={found['activation']!r} is unknown; there are {', '.join(ACTIVATIONS)}")
  return Hints(**found)


def read_hints(folder: pathlib.Path) -> Hints:
  """Hints from open_clip_config.json or config.json in a folder; none where there is neither, or none of CLIP.

  Raises:
    UserError: a file that cannot be read, or that describes a model which computes otherwise than CLIP does.
  """
  for name, parse in (("open_clip_config.json", _openclip), ("config.json", _huggingface)):
    path = folder / name
    if not path.is_file():
      continue
    try:
      hints = parse(json.loads(path.read_text(encoding="utf-8")))
    except UserError as error:
      raise UserError(f"{path}: {error}") from error
    except (ValueError, KeyError, TypeError, AttributeError, OSError, RecursionError) as error:
      raise UserError(f"{path} is no configuration of CLIP: {type(error).__name__} {error}") from error
    if hints is not None:
      return hints
  return Hints()


def checked_size(value: Any, name: str) -> int | None:
  """A size, or None where nothing is said.

  Raises:
    UserError: it is no whole number from 1.
  """
  if value is not None and (type(value) is not int or value < 1):
    raise UserError(f"{name}={value!r} must be a whole number from 1")
  return value


def _huggingface(config: dict[str, Any]) -> Hints | None:
  """None: a configuration of something else, such as a run's own."""
  # Older files repeat a section under another name, which then overrules.
  text, vision = (
    {**(config.get(f"{t}_config") or {}), **(config.get(f"{t}_config_dict") or {})} for t in ("text", "vision")
  )
  if not text and not vision:
    return None
  for section in (text, vision):
    if section.get("layer_norm_eps", 1e-5) != 1e-5:
      raise UserError(f"layer_norm_eps is {section['layer_norm_eps']}, CLIP's is 1e-5")
  activations = {_activation(section.get("hidden_act", "quick_gelu")) for section in (text, vision)}
  if len(activations) > 1:
    raise UserError(f"the towers have different activations ({', '.join(sorted(activations))}), which cannot be had")
  sizes = {
    "embed_dim": config.get("projection_dim"),
    "image_size": vision.get("image_size"),
    "patch_size": vision.get("patch_size"),
    "vision.width": vision.get("hidden_size"),
    "vision.layers": vision.get("num_hidden_layers"),
    "text.width": text.get("hidden_size"),
    "text.layers": text.get("num_hidden_layers"),
    "text.vocab_size": text.get("vocab_size"),
  }
  # HuggingFace leaves out what equals its class' default: the sizes of B/32.
  return Hints(
    activation=activations.pop(),
    vision_heads=checked_size(vision.get("num_attention_heads", 12), "vision_config.num_attention_heads"),
    text_heads=checked_size(text.get("num_attention_heads", 8), "text_config.num_attention_heads"),
    sizes=_said(sizes),
  )


# What would make OpenCLIP compute something else than CLIP, and the values with which it does not.
_PLAIN_VISION = {"global_average_pool": (False,), "pool_type": ("tok",), "timm_model_name": (None,)}
_PLAIN_TEXT = {"no_causal_mask": (False,), "pool_type": ("argmax",), "hf_model_name": (None,), "act_kwargs": (None, {})}


def _openclip(config: dict[str, Any]) -> Hints:
  model = config["model_cfg"]
  text, vision = model["text_cfg"], model["vision_cfg"]
  for section, plain in ((vision, _PLAIN_VISION), (text, _PLAIN_TEXT)):
    for name, allowed in plain.items():
      if name in section and section[name] not in allowed:
        raise UserError(f"{name} is {section[name]!r}; CLIP's is {allowed[0]!r}, and nothing else can be had")
  width = checked_size(vision.get("width"), "vision_cfg.width")
  head_width = checked_size(vision.get("head_width", _HEAD_WIDTH), "vision_cfg.head_width") or _HEAD_WIDTH
  sizes = {
    "embed_dim": model.get("embed_dim"),
    "patch_size": vision.get("patch_size"),
    "vision.width": width,
    "vision.layers": vision.get("layers"),
    "text.width": text.get("width"),
    "text.layers": text.get("layers"),
  }
  return Hints(
    activation="quick_gelu" if model.get("quick_gelu") else "gelu",
    vision_heads=None if width is None else width // head_width,
    text_heads=checked_size(text.get("heads"), "text_cfg.heads"),
    sizes=_said(sizes),
  )


def _said(sizes: dict[str, Any]) -> dict[str, int]:
  return {name: size for name, value in sizes.items() if (size := checked_size(value, name)) is not None}


def _activation(name: Any) -> str:
  if name not in ACTIVATIONS:
    raise UserError(f"hidden_act is {name!r}; allowed: {', '.join(ACTIVATIONS)}")
  return name


def from_weights(params: Mapping[str, np.ndarray], hints: Hints, default_activation: str, source: str) -> ConfigDict:
  """`config.model` of the weights, float32 compute.

  Args:
    params: {our name: array}.
    hints: what a file beside the weights, or the caller, says.
    default_activation: where nothing says which.
    source: for messages.

  Raises:
    UserError: a tensor that tells a size is missing or has another rank, or hints contradict the weights.
  """

  def shape(name: str, rank: int) -> tuple[int, ...]:
    if name not in params:
      raise UserError(f"{source}: {name} is missing: these are no weights of CLIP with a vision transformer")
    if params[name].ndim != rank:
      raise UserError(f"{source}: {name} is {params[name].shape}, expected {rank} axes")
    return params[name].shape

  patch, _, _, width = shape("vision/patch_embedding", 4)
  positions = shape("vision/position_embedding", 2)[0] - 1
  grid = math.isqrt(max(positions, 0))
  if grid * grid != positions or not positions or not patch:
    raise UserError(f"{source}: vision/position_embedding has {positions} patches, which are no square grid")
  added = shape("vision/added_proxies", 2)[0] if "vision/added_proxies" in params else 0
  time = shape("vision/time_embedding", 2)[0] if "vision/time_embedding" in params else 0
  vocab_size, text_width = shape("text/token_embedding", 2)
  towers = {tower: _layers_and_mlp(params, tower, source) for tower in ("vision", "text")}
  heads = {"vision": (width, hints.vision_heads), "text": (text_width, hints.text_heads)}
  sizes = ConfigDict(
    {
      "image_size": grid * patch,
      "patch_size": patch,
      "embed_dim": shape("vision/projection/kernel", 2)[1],
      "activation": hints.activation or default_activation,
      "dtype": "float32",
      "embedding_init": "clip",
      "temporal": "proxies",
      "vision": {"width": width, **towers["vision"], "added_proxies": added, "time_positions": time},
      "text": {
        "vocab_size": vocab_size,
        "positions": shape("text/position_embedding", 2)[0],
        "width": text_width,
        **towers["text"],
      },
    }
  )
  for tower, (tower_width, said) in heads.items():
    sizes[tower].heads = said or max(tower_width // _HEAD_WIDTH, 1)
    if tower_width % sizes[tower].heads:
      raise UserError(f"{source}: {tower}_heads={sizes[tower].heads} do not divide the tower's width of {tower_width}")
  _check_hints(sizes, hints, source)
  return sizes


def _layers_and_mlp(params: Mapping[str, np.ndarray], tower: str, source: str) -> dict[str, int]:
  found = {int(m[2]): params[m[0]].shape for m in map(_MLP_UP.fullmatch, params) if m and m[1] == tower}
  if any(len(shape) != 2 for shape in found.values()):
    raise UserError(f"{source}: a {tower} block's mlp/up/kernel has not two axes")
  if not found or len(found) != max(found) + 1:
    raise UserError(f"{source}: the {tower} tower has blocks {sorted(found)}, expected 0, 1, 2, ... without a gap")
  return {"layers": len(found), "mlp": found[0][-1]}


def _check_hints(sizes: ConfigDict, hints: Hints, source: str) -> None:
  for name, said in hints.sizes.items():
    section, _, field = name.rpartition(".")
    there = sizes[section][field] if section else sizes[field]
    if there != said:
      raise UserError(f"{source}: the configuration beside the weights says {name}={said}, the weights say {there}")
