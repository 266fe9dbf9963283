"""`config.model`, inferred from weights and from the configuration next to them.

Shapes of the weights determine all sizes except the number of heads; the activation is not in the weights either. Both
come from, in this order: the caller, metadata of files that this project wrote, HuggingFace's config.json or
open_clip_config.json next to the weights, and conventions: 64 channels per head, and the activation of the layout's
publishers.
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
from clipvip_jax.utils.log import printable

_HEAD_WIDTH = 64
_MLP_UP = re.compile(r"(text|vision)/transformer/block_([0-9]{1,4})/mlp/up/kernel")


@dataclasses.dataclass(frozen=True)
class Hints:
  """Properties of a model that are not in the shapes of its weights; None where unknown.

  Attributes:
    activation: a key of transformer.ACTIVATIONS.
    vision_heads: attention heads of the vision tower.
    text_heads: attention heads of the text tower.
    sizes: {name in `config.model`: size}, to be compared with the weights.
  """

  activation: str | None = None
  vision_heads: int | None = None
  text_heads: int | None = None
  sizes: dict[str, int] = dataclasses.field(default_factory=dict)

  def __or__(self, other: "Hints") -> "Hints":
    """Returns these hints, completed by those of `other`."""
    return Hints(*(getattr(self, field.name) or getattr(other, field.name) for field in dataclasses.fields(self)))


# Metadata key of files that this project wrote -> field of Hints.
_METADATA = {f"clipvip_jax.{name}": name for name in ("activation", "vision_heads", "text_heads")}


def to_metadata(config: ConfigDict) -> dict[str, str]:
  """Returns the properties of `config.model` that shapes do not determine, as metadata for a file of weights."""
  values = config.activation, config.vision.heads, config.text.heads
  return dict(zip(_METADATA, map(str, values), strict=True))


def hints_from_metadata(metadata: Mapping[str, str]) -> Hints:
  """Returns the hints in the metadata of a file of weights; the inverse of `to_metadata`.

  Raises:
    UserError: an unknown activation or an invalid number.
  """
  fields: dict[str, Any] = {field: metadata[name] for name, field in _METADATA.items() if name in metadata}
  for name in {"vision_heads", "text_heads"} & fields.keys():
    value = fields[name]
    fields[name] = checked_size(int(value) if re.fullmatch(r"[0-9]{1,9}", value) else value, name)
  if "activation" in fields and fields["activation"] not in ACTIVATIONS:
    raise UserError(
      f"activation={printable(fields['activation'], 80)!r} of the file is unknown; allowed: {', '.join(ACTIVATIONS)}"
    )
  return Hints(**fields)


def read_hints(folder: pathlib.Path) -> Hints:
  """Reads open_clip_config.json or config.json in a folder; empty if neither exists or neither is of CLIP.

  Raises:
    UserError: a file is invalid, or describes a model that differs from CLIP.
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
      raise UserError(
        f"{path} is not a configuration of CLIP ({type(error).__name__} {error}); remove or fix it"
      ) from error
    if hints is not None:
      return hints
  return Hints()


def checked_size(value: Any, name: str) -> int | None:
  """Returns `value`, a positive integer or None.

  Raises:
    UserError: it is neither.
  """
  if value is not None and (type(value) is not int or value < 1):
    raise UserError(f"{name}={printable(repr(value), 80)} must be an integer of at least 1")
  return value


def _huggingface(config: dict[str, Any]) -> Hints | None:
  """Returns None for a configuration of something else, such as a run's."""
  # Older files repeat a section under another name, which takes precedence.
  text, vision = (
    {**(config.get(f"{t}_config") or {}), **(config.get(f"{t}_config_dict") or {})} for t in ("text", "vision")
  )
  if not text and not vision:
    return None
  for section in (text, vision):
    if section.get("layer_norm_eps", 1e-5) != 1e-5:
      raise UserError(f"layer_norm_eps={section['layer_norm_eps']} is not supported; CLIP has 1e-5")
  activations = {_activation(section.get("hidden_act", "quick_gelu")) for section in (text, vision)}
  if len(activations) > 1:
    raise UserError(f"hidden_act differs between the towers ({', '.join(sorted(activations))}); only one is supported")
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
  # HuggingFace omits values equal to the defaults of its classes, the sizes of B/32.
  return Hints(
    activation=activations.pop(),
    vision_heads=checked_size(vision.get("num_attention_heads", 12), "vision_config.num_attention_heads"),
    text_heads=checked_size(text.get("num_attention_heads", 8), "text_config.num_attention_heads"),
    sizes=_known_sizes(sizes),
  )


# Fields with which OpenCLIP departs from CLIP, and the values with which it does not.
_CLIP_VISION = {"global_average_pool": (False,), "pool_type": ("tok",), "timm_model_name": (None,)}
_CLIP_TEXT = {"no_causal_mask": (False,), "pool_type": ("argmax",), "hf_model_name": (None,), "act_kwargs": (None, {})}


def _openclip(config: dict[str, Any]) -> Hints:
  model = config["model_cfg"]
  text, vision = model["text_cfg"], model["vision_cfg"]
  for section, clip_values in ((vision, _CLIP_VISION), (text, _CLIP_TEXT)):
    for name, allowed in clip_values.items():
      if name in section and section[name] not in allowed:
        raise UserError(f"{name}={section[name]!r} is not supported; CLIP has {allowed[0]!r}")
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
    sizes=_known_sizes(sizes),
  )


def _known_sizes(sizes: dict[str, Any]) -> dict[str, int]:
  return {name: size for name, value in sizes.items() if (size := checked_size(value, name)) is not None}


def _activation(name: Any) -> str:
  if name not in ACTIVATIONS:
    raise UserError(f"hidden_act={name!r} is not supported; allowed: {', '.join(ACTIVATIONS)}")
  return name


def from_weights(params: Mapping[str, np.ndarray], hints: Hints, default_activation: str, source: str) -> ConfigDict:
  """Infers `config.model` from weights, with float32 computation.

  Args:
    params: {parameter name: array}.
    hints: from the caller and the files.
    default_activation: used if the hints have none.
    source: for error messages.

  Raises:
    UserError: a tensor that determines a size is missing or has another rank, or hints contradict the weights.
  """

  def shape(name: str, rank: int) -> tuple[int, ...]:
    if name not in params:
      raise UserError(f"{source}: {name} is missing; use weights of CLIP with a vision transformer")
    if params[name].ndim != rank:
      raise UserError(f"{source}: {name} has shape {params[name].shape}, expected {rank} axes")
    return params[name].shape

  patch, _, _, width = shape("vision/patch_embedding", 4)
  positions = shape("vision/position_embedding", 2)[0] - 1
  grid = math.isqrt(max(positions, 0))
  if grid * grid != positions or not positions or not patch:
    raise UserError(f"{source}: vision/position_embedding has {positions} patches, which do not form a square grid")
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
  for tower, (tower_width, hinted_heads) in heads.items():
    sizes[tower].heads = hinted_heads or max(tower_width // _HEAD_WIDTH, 1)
    if tower_width % sizes[tower].heads:
      raise UserError(
        f"{source}: {tower}_heads={sizes[tower].heads} does not divide the tower's width {tower_width};"
        " pass the number of heads that the model was trained with"
      )
  _check_hints(sizes, hints, source)
  return sizes


def _layers_and_mlp(params: Mapping[str, np.ndarray], tower: str, source: str) -> dict[str, int]:
  shapes = {int(m[2]): params[m[0]].shape for m in map(_MLP_UP.fullmatch, params) if m and m[1] == tower}
  if any(len(shape) != 2 for shape in shapes.values()):
    raise UserError(f"{source}: mlp/up/kernel of a {tower} block does not have 2 axes; use weights of CLIP")
  if not shapes or len(shapes) != max(shapes) + 1:
    raise UserError(f"{source}: the {tower} tower has blocks {sorted(shapes)}, expected 0, 1, 2, ... without a gap")
  return {"layers": len(shapes), "mlp": shapes[0][-1]}


def _check_hints(sizes: ConfigDict, hints: Hints, source: str) -> None:
  for name, hinted in hints.sizes.items():
    section, _, field = name.rpartition(".")
    actual = sizes[section][field] if section else sizes[field]
    if actual != hinted:
      raise UserError(
        f"{source}: the configuration next to the weights has {name}={hinted}, the weights have {actual}; fix it"
      )
