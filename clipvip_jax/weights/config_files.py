"""Configuration files next to weights: HuggingFace's config.json and OpenCLIP's open_clip_config.json."""

import json
import pathlib
from typing import Any

from clipvip_jax.models.transformer import ACTIVATIONS
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import printable
from clipvip_jax.weights import config_fields
from clipvip_jax.weights.model_config import HEAD_WIDTH, Hints, checked_size, hints_from_metadata

OWN_SECTION = "clipvip_jax"  # of files that this project wrote: metadata as in a file of weights, without a prefix


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
      content = json.loads(path.read_text(encoding="utf-8"))
      hints = parse(content)
      own_hints = hints_from_metadata({f"{OWN_SECTION}.{name}": x for name, x in content.get(OWN_SECTION, {}).items()})
    except UserError as error:
      raise UserError(f"{path}: {error}") from error
    except (ValueError, KeyError, TypeError, AttributeError, OSError, RecursionError) as error:
      raise UserError(
        f"{path} is not a configuration of CLIP ({type(error).__name__} {error}); remove or fix it"
      ) from error
    if hints is not None:
      return hints | own_hints
  return Hints()


def _huggingface(config: dict[str, Any]) -> Hints | None:
  """Returns None for a configuration of something else, such as a run's."""
  # Older files repeat a section under another name, which takes precedence.
  text, vision = (
    {**(config.get(f"{t}_config") or {}), **(config.get(f"{t}_config_dict") or {})} for t in ("text", "vision")
  )
  if not text and not vision:
    return None
  config_fields.HUGGINGFACE.check(config, "")
  config_fields.HUGGINGFACE_TEXT.check(text, "text_config.")
  config_fields.HUGGINGFACE_VISION.check(vision, "vision_config.")
  _check_end_token(text)
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


def _check_end_token(text: dict[str, Any]) -> None:
  """Checks that transformers reads the feature of a text where this project does: at the largest id of the text."""
  end, vocab_size = text.get("eos_token_id"), text.get("vocab_size")
  # transformers takes 2, which files of older versions have by mistake, for the largest id.
  if end not in (None, 2) and type(vocab_size) is int and end != vocab_size - 1:
    raise UserError(
      f"text_config.eos_token_id={printable(repr(end), 80)} is not supported; CLIP's end token is the last of the"
      f" vocabulary, {vocab_size - 1}"
    )


def _openclip(config: dict[str, Any]) -> Hints:
  model = config["model_cfg"]
  text, vision = model["text_cfg"], model["vision_cfg"]
  config_fields.OPENCLIP.check(model, "model_cfg.")
  config_fields.OPENCLIP_VISION.check(vision, "vision_cfg.")
  config_fields.OPENCLIP_TEXT.check(text, "text_cfg.")
  width = checked_size(vision.get("width"), "vision_cfg.width")
  head_width = checked_size(vision.get("head_width", HEAD_WIDTH), "vision_cfg.head_width") or HEAD_WIDTH
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
