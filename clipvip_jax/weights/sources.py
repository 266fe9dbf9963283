"""SOURCE: whatever weights are named by, on a command line or in a recipe.

| SOURCE | is |
|---|---|
| FILE.safetensors, FILE.pt (.pth, .bin) | one file of weights |
| a folder | HuggingFace's or OpenCLIP's layout: weights with their config.json |
| hf://OWNER/NAME, hf://OWNER/NAME@REVISION | such a folder on the HuggingFace hub |
| a workdir, or WORKDIR@STEP | a run of ours: its best checkpoint, or that of a step |

Names are HuggingFace CLIP's, CLIP-ViP's or OpenCLIP's; which ones, the tensors tell.
"""

import concurrent.futures
import dataclasses
import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import traverse_util
from ml_collections import ConfigDict

from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import log
from clipvip_jax.weights import names_clip_vip, names_openclip, safetensors_file, torch_file
from clipvip_jax.weights.mmap_file import printable_value
from clipvip_jax.weights.model_config import Hints, from_weights, hints_from_metadata, read_hints

HUB = "hf://"
_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
# In a folder, the first that is there.
_NAMES = (
  "model.safetensors",
  "open_clip_model.safetensors",
  "open_clip_pytorch_model.bin",
  "pytorch_model.bin",
)
_HUB_FILES = [*_NAMES, "config.json", "open_clip_config.json", "tokenizer.json"]
# What CLIP-ViP adds to CLIP, and what may therefore be missing from a checkpoint.
ADDED = ("vision/added_proxies", "vision/time_embedding")
SEQUENCE = "sequence/"  # how the names of a transformer over frames begin, which no publisher has
OPENAI = "input_resolution"  # stands in OpenAI's own files alone
_STEP = re.compile(r"(.+)@(\d+)")


@dataclasses.dataclass(frozen=True)
class Weights:
  """Weights as they were found.

  Attributes:
    source: as it was named.
    params: {our name: array}, float32; views of the file where its own layout allows.
    config: `config.model`, as the weights and what lies beside them say.
    is_clip: whether they are a plain CLIP's, without proxies and time embedding.
    run: the whole configuration, where the source is a run of ours.
    tokenizer: a tokenizer.json beside the weights; "": none.
  """

  source: str
  params: dict[str, np.ndarray]
  config: ConfigDict
  is_clip: bool
  run: ConfigDict | None = None
  tokenizer: str = ""


def check_source(source: str) -> None:
  """Refuses a source that is not there or of no known kind, without reading it.

  Raises:
    UserError: says what is allowed.
  """
  if not source.startswith(HUB) and not _is_run(source):
    _file(source)


def read_weights(source: str, hints: Hints | None = None) -> Weights:
  """The weights of any SOURCE.

  Args:
    source: see the table at the top.
    hints: what the caller knows better than the files.

  Raises:
    UserError: nothing is there, it cannot be read, or a tensor is neither loaded nor known to be unused.
  """
  if source.startswith(HUB):
    return dataclasses.replace(read_weights(str(_from_hub(source)), hints), source=source)
  if _is_run(source):
    return _from_run(source, hints or Hints())
  return _from_file(source, _file(source), hints or Hints())


def _from_run(source: str, given: Hints) -> Weights:
  from clipvip_jax.runs.checkpoint import read_params  # Orbax takes seconds to import, and runs alone need it

  folder, step = _run_and_step(source)
  params, _ = read_params(folder / "checkpoints", step)
  flat = traverse_util.flatten_dict(params, sep="/")
  config = ConfigDict(json.loads((folder / "config.json").read_text(encoding="utf-8")))
  there = (config.model.activation, config.model.vision.heads, config.model.text.heads)
  for asked, have in zip((given.activation, given.vision_heads, given.text_heads), there, strict=True):
    if asked is not None and asked != have:
      raise UserError(f"{source!r} is a run of ours with {have!r}, not {asked!r}: leave the option out")
  tokenizer = folder / "tokenizer.json"
  return Weights(source, flat, config.model, _is_clip(flat), config, str(tokenizer) if tokenizer.is_file() else "")


def _from_file(source: str, path: pathlib.Path, given: Hints) -> Weights:
  tensors, own = _read(path)
  if all(name.startswith(names_clip_vip.WRAPPER) for name in tensors):
    tensors = {name.removeprefix(names_clip_vip.WRAPPER): x for name, x in tensors.items()}
  activation = "quick_gelu"
  guessed = False
  if names_openclip.is_openclip(tensors):
    if OPENAI not in tensors:
      activation, guessed = "gelu", True
    tensors = names_openclip.to_published(tensors, source)
  flat = {name: _float32(name, x, source) for name, x in names_clip_vip.to_flat(tensors, source).items()}
  if "logit_scale" in flat and flat["logit_scale"].size == 1:
    flat["logit_scale"] = flat["logit_scale"].reshape(())  # some publishers keep one number as [1]
  _warn_of_nan(flat, source)
  hints = given | own | read_hints(path.parent)
  if guessed and hints.activation is None:
    log.warning("%s: nothing says which activation; gelu is taken, as LAION has it. OpenAI has quick_gelu", source)
  tokenizer = path.parent / "tokenizer.json"
  return Weights(
    source=source,
    params=flat,
    config=from_weights(flat, hints, activation, source),
    is_clip=_is_clip(flat),
    tokenizer=str(tokenizer) if tokenizer.is_file() else "",
  )


def _read(path: pathlib.Path) -> tuple[Mapping[str, np.ndarray], Hints]:
  """(tensors, what the file says of itself)."""
  if path.suffix != ".safetensors":
    return torch_file.read(path), Hints()
  tensors, said = safetensors_file.read(path)
  try:
    return tensors, hints_from_metadata(said)
  except UserError as error:
    raise UserError(f"{path}: {error}") from error


def _is_clip(params: Mapping[str, np.ndarray]) -> bool:
  return not any(name in ADDED or name.startswith(SEQUENCE) for name in params)


def _float32(name: str, tensor: np.ndarray, source: str) -> np.ndarray:
  if tensor.dtype == np.float32:
    return tensor
  if not (np.issubdtype(tensor.dtype, np.floating) or tensor.dtype.name == "bfloat16"):
    raise UserError(f"{source}: {name} holds {tensor.dtype}, expected floating point numbers")
  return tensor.astype(np.float32)


def _warn_of_nan(params: Mapping[str, np.ndarray], source: str) -> None:
  # The sum of an array is finite only where all of it is, and needs no second array; it may overflow without harm.
  def finite(x: np.ndarray) -> bool:
    with np.errstate(over="ignore", invalid="ignore"):
      return bool(np.isfinite(np.sum(x)))

  with concurrent.futures.ThreadPoolExecutor() as pool:  # reading the pages of the file is most of the work
    suspects = [name for name, fine in zip(params, pool.map(finite, params.values()), strict=True) if not fine]
  bad = {name: int(np.count_nonzero(~np.isfinite(params[name]))) for name in suspects}
  bad = {name: count for name, count in bad.items() if count}
  if bad:
    named = ", ".join(f"{name} ({count} of {params[name].size})" for name, count in bad.items())
    log.warning("%s: %d numbers are NaN or infinite, in %s", source, sum(bad.values()), named)


def _file(source: str) -> pathlib.Path:
  """The file of weights that a path names, itself or as a folder."""
  path = pathlib.Path(source)
  try:
    path.stat()
  except FileNotFoundError:
    pass
  except (OSError, ValueError) as error:  # a name that is too long, or holds what no name may
    raise UserError(f"{printable_value(source)} is no path that can be read: {error}") from error
  if path.is_dir():
    for name in _NAMES:
      if (path / name).is_file():
        return path / name
    split = next(path.glob("*.index.json"), None)
    why = f"; {split.name} tells of weights in several files, which cannot be read" if split else ""
    raise UserError(f"{source!r} holds no weights{why}: neither a run's checkpoints nor one of {', '.join(_NAMES)}")
  if path.suffix not in _SUFFIXES:
    raise UserError(
      f"{source!r} is no source of weights: allowed are files ({', '.join(_SUFFIXES)}), folders in HuggingFace's"
      f" layout, {HUB}OWNER/NAME, and workdirs of runs (WORKDIR or WORKDIR@STEP)"
    )
  if not path.is_file():
    raise UserError(
      f"{source!r}: no such file. CLIP's weights are published on HuggingFace: download model.safetensors of"
      f" openai/clip-vit-base-patch32 or -patch16, or name them {HUB}openai/clip-vit-base-patch32"
    )
  return path


def _run_and_step(source: str) -> tuple[pathlib.Path, int | None]:
  match = _STEP.fullmatch(source)
  if match and not pathlib.Path(source).exists():
    return pathlib.Path(match[1]), int(match[2])
  return pathlib.Path(source), None


def _is_run(source: str) -> bool:
  try:
    folder, _ = _run_and_step(source)
    config = folder / "config.json"
    if not (config.is_file() and (folder / "checkpoints").is_dir()):
      return False
    content: Any = json.loads(config.read_text(encoding="utf-8"))
  except (ValueError, OSError, RecursionError):
    return False
  return isinstance(content, dict) and {"model", "data", "train"} <= content.keys()


def _from_hub(source: str) -> pathlib.Path:
  """Downloads what is needed into the hub's own cache."""
  name, _, revision = source.removeprefix(HUB).partition("@")
  if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
    raise UserError(
      f"{source!r} is no name on the HuggingFace hub: expected {HUB}OWNER/NAME or {HUB}OWNER/NAME@REVISION"
    )
  try:
    import huggingface_hub
  except ImportError as error:
    raise UserError(f"{source!r} needs the package huggingface_hub: pip install huggingface_hub") from error
  try:
    folder = huggingface_hub.snapshot_download(name, revision=revision or None, allow_patterns=_HUB_FILES)
  except Exception as error:  # network, authentication, no such repository: the package raises many kinds
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    raise UserError(f"{source!r} cannot be downloaded: {reason}") from error
  return pathlib.Path(folder)
