"""`config.model`, inferred from weights and from the configuration next to them.

Shapes of the weights determine all sizes except the number of heads; the activation is not in the weights either. Both
come from, in this order: the caller, metadata of files that this project wrote, the configuration next to the weights
(config_files.py), and conventions: the channels per head of published towers, and the activation of the layout's
publishers.
"""

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from clipvip_jax.input_pipeline.preprocessing import CROPS
from clipvip_jax.models.dense import ACTIVATIONS
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import printable

HEAD_WIDTH = 64
# Width of a vision tower -> channels per head, of ViT-H/14, ViT-g/14 and ViT-bigG/14.
_HEAD_WIDTHS = {("vision", 1280): 80, ("vision", 1408): 88, ("vision", 1664): 104}
_MLP_UP = re.compile(r"(text|vision)/transformer/block_([0-9]{1,4})/mlp/up/kernel")


@dataclasses.dataclass(frozen=True)
class Hints:
  """Properties of a model that are not in the shapes of its weights; None where unknown.

  Attributes:
    activation: a key of dense.ACTIVATIONS.
    vision_heads: attention heads of the vision tower.
    text_heads: attention heads of the text tower.
    sizes: {name in `config.model`: size}, to be compared with the weights.
    temporal: `config.model.temporal` of the run that the weights are from.
    num_frames: frames of a clip in that run.
    text_length: tokens of a text in that run.
    tokenizer: name of the file of that run's tokenizer, next to the weights.
    end_token: id at whose first position the text tower pools; LARGEST_ID: at the largest id of a text.
    crop: `config.data.crop` of that run.
  """

  activation: str | None = None
  vision_heads: int | None = None
  text_heads: int | None = None
  sizes: dict[str, int] = dataclasses.field(default_factory=dict)
  temporal: str | None = None
  num_frames: int | None = None
  text_length: int | None = None
  tokenizer: str | None = None
  end_token: int | None = None
  crop: str | None = None

  def __or__(self, other: "Hints") -> "Hints":
    """Returns these hints, completed by those of `other`."""
    return Hints(*(getattr(self, field.name) or getattr(other, field.name) for field in dataclasses.fields(self)))

  def check_agreement(self, other: "Hints", name: str) -> None:
    """Checks that `other` has the same known values as these hints, which are of `name`.

    Raises:
      UserError: a value differs.
    """
    values, others = ({**dataclasses.asdict(hints), "sizes": None, **hints.sizes} for hints in (self, other))
    for field, value in values.items():
      if value is not None and others.get(field) not in (None, value):
        raise UserError(f"{field}={others[field]!r} contradicts {name}, which has {value!r}; fix or remove one of them")


LARGEST_ID = 2  # value of eos_token_id that transformers takes for the largest id, as older files have by mistake
TOKENIZER_FILE = "tokenizer.json"
# Metadata key of files that this project wrote -> field of Hints.
_METADATA_PREFIX = "clipvip_jax."
_INTEGERS = ("vision_heads", "text_heads", "num_frames", "text_length", "end_token")
_CHOICES = {
  "activation": tuple(ACTIVATIONS),
  "temporal": ("proxies", "full", "mean"),
  "tokenizer": (TOKENIZER_FILE,),
  "crop": CROPS,
}


def _key(name: str) -> str:
  return f"{_METADATA_PREFIX}{name}"


def to_metadata(hints: Hints) -> dict[str, str]:
  """Returns the known properties that shapes do not determine, as metadata for a file of weights."""
  values = {name: getattr(hints, name) for name in (*_INTEGERS, *_CHOICES)}
  return {_key(name): str(value) for name, value in values.items() if value is not None}


def hints_from_metadata(metadata: Mapping[str, str]) -> Hints:
  """Returns the hints in the metadata of a file of weights; the inverse of `to_metadata`.

  Raises:
    UserError: an unknown property of this project or choice, or an invalid number.
  """
  names = (*_INTEGERS, *_CHOICES)
  if unknown := [key for key in metadata if key.startswith(_METADATA_PREFIX) and key not in map(_key, names)]:
    raise UserError(f"{printable(unknown[0], 80)} is unknown; use the version of this project that wrote it")
  fields: dict[str, Any] = {name: metadata[_key(name)] for name in names if _key(name) in metadata}
  for name, value in fields.items():
    if name in _INTEGERS:
      is_number = type(value) is str and re.fullmatch(r"[0-9]{1,9}", value)
      fields[name] = checked_size(int(value) if is_number else value, name)
    elif value not in _CHOICES[name]:
      raise UserError(f"{name}={printable(value, 80)!r} of the file is unknown; allowed: {', '.join(_CHOICES[name])}")
  return Hints(**fields)


def checked_size(value: Any, name: str) -> int | None:
  """Returns `value`, a positive integer or None.

  Raises:
    UserError: it is neither.
  """
  if value is not None and (type(value) is not int or value < 1):
    raise UserError(f"{name}={printable(repr(value), 80)} must be an integer of at least 1")
  return value


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
  vocab_size, text_width = shape("text/token_embedding", 2)
  vision = {
    "width": width,
    **_layers_and_mlp(params, "vision", source),
    "added_proxies": shape("vision/added_proxies", 2)[0] if "vision/added_proxies" in params else 0,
    "time_positions": shape("vision/time_embedding", 2)[0] if "vision/time_embedding" in params else 0,
  }
  text = {
    "vocab_size": vocab_size,
    "positions": shape("text/position_embedding", 2)[0],
    "width": text_width,
    **_layers_and_mlp(params, "text", source),
  }
  sizes = ConfigDict(
    {
      "image_size": grid * patch,
      "patch_size": patch,
      "embed_dim": shape("vision/projection/kernel", 2)[1],
      "activation": hints.activation or default_activation,
      "dtype": "float32",
      "embedding_init": "clip",
      "temporal": "proxies",
      "vision": {**vision, "heads": _heads("vision", width, hints.vision_heads, source)},
      "text": {**text, "heads": _heads("text", text_width, hints.text_heads, source)},
    }
  )
  _check_hints(sizes, hints, source)
  return sizes


def _heads(tower: str, width: int, hinted: int | None, source: str) -> int:
  """Returns the hinted number of attention heads, or that of published towers of the width."""
  heads = hinted or max(width // _HEAD_WIDTHS.get((tower, width), HEAD_WIDTH), 1)
  if width % heads:
    raise UserError(
      f"{source}: {tower}_heads={heads} does not divide the tower's width {width};"
      " pass the number of heads that the model was trained with"
    )
  return heads


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
  if (hints.text_length or 0) > sizes.text.positions:
    raise UserError(
      f"{source}: text_length={hints.text_length} of the file exceeds the {sizes.text.positions} positions of the"
      " weights; fix it"
    )
  last = sizes.text.vocab_size - 1
  if hints.end_token not in (None, LARGEST_ID, last):
    raise UserError(
      f"{source}: text_config.eos_token_id={hints.end_token} is not supported; CLIP's end token is the last of the"
      f" vocabulary, {last}"
    )
