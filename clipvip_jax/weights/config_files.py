"""Configuration files next to weights: HuggingFace's config.json and OpenCLIP's open_clip_config.json."""

import pathlib
from typing import Any

from clipvip_jax.models.dense import ACTIVATIONS
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import printable
from clipvip_jax.weights import config_fields, json_object
from clipvip_jax.weights.model_config import HEAD_WIDTH, LARGEST_ID, Hints, checked_size, hints_from_metadata

_CLIP_END_TOKEN = 49407
_MAX_RATIO = 1000  # width of an MLP to that of its tower
OWN_SECTION = "clipvip_jax"  # of files that this project wrote: metadata as in a file of weights, without a prefix


def read_hints(folder: pathlib.Path) -> Hints:
  """Reads open_clip_config.json and config.json in a folder; empty if neither exists or neither is of a model.

  Raises:
    UserError: a file is invalid or describes a model that differs from CLIP, or the files contradict each other.
  """
  hints = Hints()
  for name, parse in (("open_clip_config.json", _openclip), ("config.json", _huggingface)):
    path = folder / name
    if not json_object.exists(path):
      continue
    try:
      content = json_object.read(path)
      parsed = parse(content)
      own_hints = hints_from_metadata({f"{OWN_SECTION}.{name}": x for name, x in content.get(OWN_SECTION, {}).items()})
      if parsed is not None:
        hints.check_agreement(parsed, "open_clip_config.json")
        hints |= parsed | own_hints
    except UserError as error:
      raise UserError(f"{path}: {error}") from error
    except Exception as error:  # of many types, for values of other types than a configuration has
      reason = f"{type(error).__name__} {printable(error, 160)}"
      raise UserError(f"{path} is not a configuration of CLIP ({reason}); remove or fix it") from error
  return hints


def _huggingface(config: dict[str, Any]) -> Hints | None:
  """Returns None for a configuration that is not of transformers, such as a run's or timm's."""
  text, vision = (_section(config, name) for name in ("text_config", "vision_config"))
  classes = config.get("architectures") or []
  if not (text or vision or classes or "model_type" in config):
    return None
  config_fields.HUGGINGFACE.check(config, "")
  if "model_type" not in config and classes and not any(str(name).startswith("CLIP") for name in classes):
    raise UserError(f"architectures={printable(repr(classes), 80)} is not supported; CLIP has ['CLIPModel']")
  config_fields.HUGGINGFACE_TEXT.check(text, "text_config.")
  config_fields.HUGGINGFACE_VISION.check(vision, "vision_config.")
  added = config.get("vision_additional_config") or {}
  config_fields.CLIP_VIP_VISION.check(added, "vision_additional_config.")
  has_proxies = added.get("type") == "ViP"
  activations = {_activation(section.get("hidden_act", "quick_gelu")) for section in (text, vision)}
  if len(activations) > 1:
    raise UserError(f"hidden_act differs between the towers ({', '.join(sorted(activations))}); only one is supported")
  sizes = {
    "embed_dim": config.get("projection_dim"),
    "image_size": vision.get("image_size"),
    "patch_size": vision.get("patch_size"),
    "vision.width": vision.get("hidden_size"),
    "vision.layers": vision.get("num_hidden_layers"),
    "vision.mlp": vision.get("intermediate_size"),
    "text.positions": text.get("max_position_embeddings"),
    "text.width": text.get("hidden_size"),
    "text.layers": text.get("num_hidden_layers"),
    "text.mlp": text.get("intermediate_size"),
    "text.vocab_size": text.get("vocab_size"),
    "vision.added_proxies": (added.get("add_cls_num") or None) if has_proxies else None,
    "vision.time_positions": added.get("temporal_size") if has_proxies and added.get("if_use_temporal_embed") else None,
  }
  # HuggingFace omits values equal to the defaults of its classes, the sizes of B/32.
  return Hints(
    activation=activations.pop(),
    vision_heads=checked_size(vision.get("num_attention_heads", 12), "vision_config.num_attention_heads"),
    text_heads=checked_size(text.get("num_attention_heads", 8), "text_config.num_attention_heads"),
    sizes=_known_sizes(sizes),
    temporal=("proxies" if has_proxies else "mean") if added else None,
    end_token=_end_token(text),
  )


def _section(config: dict[str, Any], name: str) -> dict[str, Any]:
  """Returns a section, completed by the second one of older files: text_config and text_config_dict.

  Raises:
    UserError: they contradict each other. transformers uses the second one, and defaults for the fields that it omits.
  """
  section, second = config.get(name) or {}, config.get(f"{name}_dict")
  if second is None:
    return section
  for field, default in config_fields.HUGGINGFACE_DEFAULTS[name].items():
    value, second_value = section.get(field), default if second.get(field) is None else second[field]
    if field == "eos_token_id":  # OpenAI's files have 2, which transformers takes for the last id
      value = _CLIP_END_TOKEN if value == LARGEST_ID and second_value == _CLIP_END_TOKEN else value
    if value not in (None, second_value):
      shown = printable(repr(second_value), 80) + ("" if field in second else " by default")
      raise UserError(
        f"{name}_dict has {field}={shown}, which transformers uses, {name} has {printable(repr(value), 80)}; correct"
        f" {name} or remove {name}_dict"
      )
  return {**section, **second}


def _end_token(text: dict[str, Any]) -> int | None:
  """Returns the id at which transformers pools a text; None if it is the last of the vocabulary."""
  end, vocab_size = text.get("eos_token_id"), text.get("vocab_size")
  if end is None and type(vocab_size) is int and vocab_size > _CLIP_END_TOKEN:
    return _CLIP_END_TOKEN  # the default of transformers, also for a vocabulary with more tokens
  return checked_size(end, "text_config.eos_token_id")


def _openclip(config: dict[str, Any]) -> Hints:
  config_fields.OPENCLIP_FILE.check(config, "")
  model = config["model_cfg"]
  config_fields.OPENCLIP.check(model, "model_cfg.")
  text, vision = model["text_cfg"], model["vision_cfg"]
  config_fields.OPENCLIP_VISION.check(vision, "vision_cfg.")
  config_fields.OPENCLIP_TEXT.check(text, "text_cfg.")
  # OpenCLIP omits values equal to the defaults of its classes, the sizes of B/32.
  width = checked_size(vision.get("width", 768), "vision_cfg.width") or 768
  text_width = checked_size(text.get("width", 512), "text_cfg.width") or 512
  head_width = checked_size(vision.get("head_width", HEAD_WIDTH), "vision_cfg.head_width") or HEAD_WIDTH
  sizes = {
    "embed_dim": model.get("embed_dim"),
    "image_size": _side(vision.get("image_size")),
    "patch_size": vision.get("patch_size"),
    "vision.width": vision.get("width"),
    "vision.layers": vision.get("layers"),
    "vision.mlp": _mlp_size(width, vision, "vision_cfg"),
    "text.positions": text.get("context_length"),
    "text.vocab_size": text.get("vocab_size"),
    "text.width": text.get("width"),
    "text.layers": text.get("layers"),
    "text.mlp": _mlp_size(text_width, text, "text_cfg"),
  }
  return Hints(
    activation="quick_gelu" if model.get("quick_gelu") else "gelu",
    vision_heads=width // head_width,
    text_heads=checked_size(text.get("heads", 8), "text_cfg.heads"),
    sizes=_known_sizes(sizes),
  )


def _mlp_size(width: int, section: dict[str, Any], name: str) -> int | None:
  """Returns the width of the MLP that OpenCLIP computes; None if the section does not state its ratio."""
  ratio = section.get("mlp_ratio")
  if ratio is None:
    return None
  if type(ratio) not in (int, float) or not 0 < ratio <= _MAX_RATIO:
    raise UserError(f"{name}.mlp_ratio={printable(repr(ratio), 80)} must be a number above 0, at most {_MAX_RATIO}")
  return int(width * ratio)


def _side(size: Any) -> Any:
  """Returns the side of a square image, which OpenCLIP states as one number or two."""
  return size[0] if isinstance(size, list) and len(size) == 2 and size[0] == size[1] else size


def _known_sizes(sizes: dict[str, Any]) -> dict[str, int]:
  return {name: size for name, value in sizes.items() if (size := checked_size(value, name)) is not None}


def _activation(name: Any) -> str:
  if name not in ACTIVATIONS:
    raise UserError(f"hidden_act={name!r} is not supported; allowed: {', '.join(ACTIVATIONS)}")
  return name
