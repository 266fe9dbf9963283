"""Export to the layouts of CLIP-ViP's published checkpoints, HuggingFace CLIP and OpenCLIP."""

import contextlib
import json
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from clipvip_jax.input_pipeline.clip_bpe import CLIP_VOCAB_SIZE, clip_tokenizer_json
from clipvip_jax.input_pipeline.clip_tokenizer import has_clip_vocabulary
from clipvip_jax.input_pipeline.load_tokenizer import load_tokenizer
from clipvip_jax.runs.checkpoint_identity import load_recorded_tokenizer
from clipvip_jax.utils import atomic_write, bucket_copies
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import log
from clipvip_jax.weights import layout_configs, names_clip_vip, names_openclip, pixel_normalization, torch_writer
from clipvip_jax.weights.config_files import OWN_SECTION
from clipvip_jax.weights.model_config import LARGEST_ID, TOKENIZER_FILE, Hints, to_metadata
from clipvip_jax.weights.source_paths import FOLDER_FILES
from clipvip_jax.weights.sources import CLIP_VIP_PARAMS, SEQUENCE_PREFIX, Weights

_PROXIES = "vision/added_proxies"
# Suffixes of files of weights that are written, and of others; a name with neither, as clip-vip-v1.2, is of a folder.
_SUFFIXES = (".safetensors", ".pt", ".pth")
_OTHER_SUFFIXES = {
  ".bin",
  ".ckpt",
  ".tar",
  ".gz",
  ".zip",
  ".npz",
  ".npy",
  ".pkl",
  ".h5",
  ".onnx",
  ".msgpack",
  ".gguf",
  ".json",
}
# Files in a folder of each layout: the weights and their configuration. Those of clip_vip have a name that transformers
# does not know: its CLIPModel, and that of CLIP-ViP's code, would find no tensor in them and build random weights.
LAYOUTS = {
  "clip_vip": ("clip_vip.safetensors", "config.json"),
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


def default_layout(weights: Weights) -> str:
  """Returns the layout that other programs read, if it expresses how the weights embed, else "clip_vip"."""
  return "clip" if weights.is_clip and not losses(weights, "clip") else "clip_vip"


def check_lossless(weights: Weights, layout: str) -> None:
  """Checks that other programs can compute the features of a run from a layout.

  Raises:
    UserError: the layout is unknown, or cannot express how the run embeds videos or texts.
  """
  _check_layout(layout)
  if lost := losses(weights, layout):
    raise UserError(
      f"{weights.source}: layout {layout!r} cannot express {' and '.join(lost)}, so other programs would compute"
      " other features; use --layout=clip_vip or the workdir, or add --lossy"
    )


def _check_layout(layout: str) -> None:
  if layout not in LAYOUTS:
    raise UserError(f"layout {layout!r} is unknown; allowed: {', '.join(LAYOUTS)}")


def losses(weights: Weights, layout: str) -> list[str]:
  """Returns what a layout does not express of how weights embed, for other programs than this project."""
  if layout == "clip_vip":
    return []
  lost = [f"temporal={weights.temporal!r}"] if weights.temporal != "mean" else []
  path = _tokenizer_file(weights)
  if _own_tokenizer(weights) and (path is None or not has_clip_vocabulary(path)):
    is_published = weights.run is None and not weights.hints.tokenizer  # for transformers, which reads tokenizer.json
    lost += [] if layout == "clip" and is_published else ["its own tokenizer"]
  return lost


def export_weights(
  weights: Weights, target: pathlib.Path, layout: str, *, overwrite: bool = False, clip_tokenizer: bool = False
) -> list[pathlib.Path]:
  """Writes a .safetensors or .pt file, or a folder of weights, configuration and tokenizer, each file atomically.

  What a run's weights need to compute the same features (temporal, frames of a clip, length of a text, crop) is in
  the metadata of the file and in the configuration.

  Args:
    weights: of any SOURCE.
    target: FILE.safetensors, FILE.pt, FILE.pth or a folder.
    layout: a key of LAYOUTS.
    overwrite: whether to replace existing files.
    clip_tokenizer: whether a folder also holds CLIP's tokenizer, which this project does not need, for its weights.

  Returns:
    The written files.

  Raises:
    UserError: the layout does not support the weights, or the target exists, has another suffix, contains files that
      would be read with the exported ones, or cannot be written.
  """
  _check_layout(layout)
  is_file = _is_file(target)
  tokenizer = _tokenizer_file(weights)
  hints = _hints(weights, tokenizer)
  contents: dict[pathlib.Path, bytes] = {} if is_file else _other_files(weights, target, layout, hints)
  if tokenizer and not is_file:
    contents[target / TOKENIZER_FILE] = tokenizer.read_bytes()
  elif clip_tokenizer and not is_file and not hints.tokenizer and weights.config.text.vocab_size == CLIP_VOCAB_SIZE:
    contents[target / TOKENIZER_FILE] = clip_tokenizer_json().encode()
  path = target if is_file else target / LAYOUTS[layout][0]
  _check_target(target, [path, *contents], is_file=is_file, overwrite=overwrite)
  tensors = to_layout(weights.params, layout, weights.source)
  _warn_of_losses(weights, layout)
  if is_file and tokenizer:
    log.warning("%s: a file does not hold the tokenizer; export to a folder to embed texts", target)
  if hints.tokenizer and not tokenizer:
    log.warning("%s: the tokenizer of the run is missing, so the export embeds no texts", weights.source)
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:  # all or none, the weights last: they are not read with files of others
      temporary = stack.enter_context(atomic_write.atomic_path(path))
      others = {stack.enter_context(atomic_write.atomic_path(file)): content for file, content in contents.items()}
      for file, content in others.items():
        file.write_bytes(content)
      _write_tensors(temporary, path.suffix.lower(), tensors, to_metadata(hints))
  except OSError as error:
    problem = atomic_write.write_problem(error, "use another target")
    raise UserError(f"target {str(target)!r} {problem}") from error
  return [path, *contents]


def _is_file(target: pathlib.Path) -> bool:
  """Returns whether a target is a file, which the suffix of a file of weights makes it, and not a folder."""
  if target.is_dir():
    return False
  suffix = target.suffix.lower()
  if suffix in _OTHER_SUFFIXES:
    raise UserError(f"target {str(target)!r} has the suffix {suffix}; use FILE.safetensors, FILE.pt or a folder")
  return suffix in _SUFFIXES


def _check_target(target: pathlib.Path, files: Sequence[pathlib.Path], *, is_file: bool, overwrite: bool) -> None:
  """Checks that files can be written to a target, and that nothing next to them changes what they mean."""
  existing = [str(file) for file in files if file.exists()]
  if existing and not overwrite:
    raise UserError(f"{', '.join(existing)} already exists; use another target, or add --overwrite")
  if not is_file:
    others = [name for name in FOLDER_FILES if (target / name).exists() and target / name not in files]
    if others:
      raise UserError(
        f"{target} contains {', '.join(others)}, which would be read instead of or with the exported files; use another"
        " folder, or delete them"
      )
    return
  normalization = pixel_normalization.read_normalization(target.parent)
  if normalization is not None and not pixel_normalization.is_clip(normalization):
    raise UserError(
      f"{target.parent} has files that state another normalization of pixels than that of exported weights, which is"
      " CLIP's; use another folder"
    )


def _warn_of_losses(weights: Weights, layout: str) -> None:
  temporal, has_proxies = weights.temporal, any(name in CLIP_VIP_PARAMS for name in weights.params)
  if layout != "clip_vip" and temporal != "mean":
    log.warning("layout %s: other programs read a CLIP of images, without temporal=%r", layout, temporal)
  if layout == "clip_vip" and (temporal == "full" or (temporal == "mean" and has_proxies)):
    log.warning("layout clip_vip: CLIP-ViP's code computes temporal='proxies'; only this project reads %r", temporal)


def _write_tensors(
  path: pathlib.Path, suffix: str, tensors: dict[str, np.ndarray], metadata: Mapping[str, str]
) -> None:
  """Writes the file of weights in the format of a suffix."""
  if suffix != ".safetensors":
    torch_writer.write(path, tensors, metadata)
    return
  from safetensors.numpy import save

  # transformers refuses a file without a format.
  content = save(tensors, metadata={"format": "pt", **metadata})
  start = 8 + int.from_bytes(content[:8], "little")
  header = json.loads(content[8:start])
  # The package writes metadata in random order. Sorted, equal exports are byte-identical, and uploaded once.
  header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
  text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
  text += b" " * (-len(text) % 8)  # tensors are aligned
  with path.open("wb") as file:
    file.writelines([len(text).to_bytes(8, "little"), text, memoryview(content)[start:]])


def _other_files(weights: Weights, folder: pathlib.Path, layout: str, hints: Hints) -> dict[pathlib.Path, bytes]:
  """Returns {path: content} of the configuration files of a folder."""
  end_token, crop = hints.end_token or weights.config.text.vocab_size - 1, hints.crop or "squash"
  config = layout_configs.model_config(weights.config, layout, end_token, crop)
  config[OWN_SECTION] = {name.removeprefix(f"{OWN_SECTION}."): x for name, x in to_metadata(hints).items()}
  files = {LAYOUTS[layout][1]: config}
  if layout != "openclip":  # whose configuration has a section of it
    files[layout_configs.PREPROCESSOR_FILE] = layout_configs.preprocessor_config(weights.config, crop)
  return {folder / name: f"{json.dumps(content, indent=2)}\n".encode() for name, content in files.items()}


def _tokenizer_file(weights: Weights) -> pathlib.Path | None:
  """Returns the file of the tokenizer that the weights were trained with; None for CLIP's, and if it is unknown."""
  name = weights.tokenizer or ("" if weights.run is None else weights.run.data.get("tokenizer", ""))
  path = bucket_copies.fetch_file(name)
  if not name or not path.is_file():
    return None
  if weights.tokenizer_digest:
    load_recorded_tokenizer(path, weights.tokenizer_digest)
  return path


def _own_tokenizer(weights: Weights) -> bool:
  """Returns whether the weights were trained with another vocabulary than CLIP's, whose file may be missing."""
  if weights.run is None:
    return bool(weights.hints.tokenizer) or (weights.tokenizer != "" and not has_clip_vocabulary(weights.tokenizer))
  return bool(weights.tokenizer) or weights.run.data.get("tokenizer", "clip") != "clip"


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
    tokenizer=TOKENIZER_FILE if _own_tokenizer(weights) else None,
    end_token=_end_token(weights, tokenizer),
    crop=None if weights.crop == "squash" else weights.crop,  # squash if none is stated, as in earlier versions
  )


def _end_token(weights: Weights, tokenizer: pathlib.Path | None) -> int | None:
  """Returns LARGEST_ID if the end token may be another than the last of the vocabulary, else None."""
  if weights.hints.end_token == LARGEST_ID:
    return LARGEST_ID
  if tokenizer is None or weights.hints.end_token:
    return None
  try:
    return None if load_tokenizer(tokenizer).vocab_size == weights.config.text.vocab_size else LARGEST_ID
  except UserError:  # a tokenizer that this project does not read
    return LARGEST_ID
