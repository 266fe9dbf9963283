"""Weights of any SOURCE (source_paths.py), with their configuration.

Tensors may have the names of HuggingFace's CLIP, CLIP-ViP or OpenCLIP, which are detected.
"""

import dataclasses
import json
import pathlib
from collections.abc import Mapping

import numpy as np
from flax import traverse_util
from ml_collections import ConfigDict

from clipvip_jax.models import clip_vip
from clipvip_jax.runs.checkpoint_identity import check_files
from clipvip_jax.utils import bucket_copies, storage
from clipvip_jax.utils.errors import UserError, first_line
from clipvip_jax.utils.local_paths import expand_user
from clipvip_jax.utils.log import log
from clipvip_jax.weights import json_object, names_clip_vip, names_openclip, tensor_files, torch_file, wrapper_prefixes
from clipvip_jax.weights.config_files import read_hints
from clipvip_jax.weights.model_config import TOKENIZER_FILE, Hints, checked_size, from_weights, hints_from_metadata
from clipvip_jax.weights.pixel_normalization import fold_normalization, read_normalization
from clipvip_jax.weights.source_paths import HUB, download, fetch, is_run, parse_run, weight_file

# Parameters that CLIP-ViP adds to CLIP, which a checkpoint of CLIP lacks.
CLIP_VIP_PARAMS = ("vision/added_proxies", "vision/time_embedding")
SEQUENCE_PREFIX = "sequence/"  # parameters of temporal=sequence, which no published layout holds
_OPENAI_TENSOR = "input_resolution"  # only in OpenAI's own files
_ASSUMED = {
  "gelu": "gelu, as in LAION's weights (OpenAI's need quick_gelu)",
  "quick_gelu": "quick_gelu, as in OpenAI's weights (LAION's need gelu); keep their config.json next to them",
}


@dataclasses.dataclass(frozen=True)
class Weights:
  """Weights of a SOURCE.

  Attributes:
    source: the SOURCE.
    params: {parameter name: float32 array}; views of the file where its layout allows.
    config: `config.model`, inferred from the weights and the files next to them.
    is_clip: whether they are a plain CLIP's, without added proxies and time embedding.
    run: the complete configuration, if the source is a run.
    tokenizer: path or address of a tokenizer.json next to the weights; "": none.
    hints: from the caller and the files next to the weights.
    tokenizer_digest: of the tokenizer that the run was trained with; "": unknown.
    step: of the checkpoint, if the source is a run.
  """

  source: str
  params: dict[str, np.ndarray]
  config: ConfigDict
  is_clip: bool
  run: ConfigDict | None = None
  tokenizer: str = ""
  hints: Hints = dataclasses.field(default_factory=Hints)
  tokenizer_digest: str = ""
  step: int | None = None

  @property
  def temporal(self) -> str:
    """`config.model.temporal` of the run, or that of the publishers: "mean" for a plain CLIP, which is of images."""
    if self.run is not None or not (self.hints.temporal or self.is_clip):
      return self.config.temporal
    return self.hints.temporal or "mean"

  @property
  def num_frames(self) -> int | None:
    """Frames of a clip in the run; None if unknown."""
    return self.hints.num_frames if self.run is None else self._size_of_run("num_frames")

  @property
  def text_length(self) -> int | None:
    """Tokens of a text in the run; None if unknown."""
    return self.hints.text_length if self.run is None else self._size_of_run("text_length")

  def _size_of_run(self, name: str) -> int | None:
    assert self.run is not None
    return checked_size(self.run.data.get(name), f"{self.source}: data.{name}")

  @property
  def crop(self) -> str | None:
    """How frames become square, of the caller or the run, see `preprocessing.CROPS`; None if unknown."""
    return self.hints.crop or (None if self.run is None else self.run.data.get("crop"))


def read_weights(source: str, hints: Hints | None = None) -> Weights:
  """Reads the weights of any SOURCE.

  Args:
    source: see the table in source_paths.py.
    hints: heads, activation and crop, which take precedence over those of the files.

  Raises:
    UserError: the source does not exist or cannot be read, or a tensor is neither loaded nor known to be unused.
  """
  source = expand_user(source)
  if source.startswith(HUB):
    return dataclasses.replace(read_weights(str(download(source)), hints), source=source)
  storage.check_path(source, "SOURCE")
  if storage.is_remote(source):
    with bucket_copies.errors_by_address():
      weights = read_weights(fetch(source), hints)
    return dataclasses.replace(weights, source=source, tokenizer=bucket_copies.to_addresses(weights.tokenizer))
  if is_run(source):
    return _from_run(source, hints or Hints())
  return _from_file(source, weight_file(source), hints or Hints())


def _from_run(source: str, overrides: Hints) -> Weights:
  from clipvip_jax.runs.checkpoint import read_params  # lazy: Orbax takes seconds to import

  folder, step, raw = parse_run(source)
  params, step = read_params(folder / "checkpoints", step, raw=raw)
  digest = check_files(folder, step)
  flat = traverse_util.flatten_dict(params, sep="/")
  config = ConfigDict(json.loads((folder / "config.json").read_text(encoding="utf-8")))
  try:
    _check_sizes(config.model, source)
    actual = {
      "activation": config.model.activation,
      "vision_heads": config.model.vision.heads,
      "text_heads": config.model.text.heads,
    }
  except (AttributeError, KeyError, TypeError) as error:
    raise UserError(
      f"{folder / 'config.json'} is of another project or version ({first_line(error)}); use the version that wrote it"
    ) from error
  for name, value in actual.items():
    override = getattr(overrides, name)
    if override is not None and override != value:
      raise UserError(f"{name}={override!r} contradicts the run {source!r}, which has {value!r}; omit the option")
  tokenizer = folder / TOKENIZER_FILE
  beside = str(tokenizer) if json_object.exists(tokenizer) else ""
  hints = Hints(crop=overrides.crop)
  return Weights(source, flat, config.model, _is_clip(flat), config, beside, hints, digest, step)


def _from_file(source: str, path: pathlib.Path, overrides: Hints) -> Weights:
  tensors, file_hints = _read(path)
  tensors = wrapper_prefixes.strip_wrapper_prefixes(tensors, source)
  is_openai = _OPENAI_TENSOR in tensors
  activation = "gelu" if names_openclip.is_openclip(tensors) and not is_openai else "quick_gelu"
  flat = {name: _float32(name, x, source) for name, x in _to_flat(tensors, path, source).items()}
  if "logit_scale" in flat and flat["logit_scale"].size == 1:
    flat["logit_scale"] = flat["logit_scale"].reshape(())  # some publishers store a scalar as [1]
  folder_hints = read_hints(path.parent)
  try:
    file_hints.check_agreement(folder_hints, f"the metadata of {path.name}")
  except UserError as error:
    raise UserError(f"{source}: the configuration next to the weights: {error}") from error
  hints = overrides | file_hints | folder_hints
  if hints.activation is None and not is_openai and _is_clip(flat):  # the weights of CLIP-ViP have one publisher
    log.warning("%s: no file specifies the activation; assuming %s", source, _ASSUMED[activation])
  tokenizer = path.parent / TOKENIZER_FILE
  # CLIP-ViP without added proxies has an empty tensor of them. Exports of mean pooling and of runs, which alone state
  # num_frames, have it, too.
  is_export = hints.temporal == "mean" or hints.num_frames is not None
  is_clip = _is_clip(flat) or (is_export and not any(flat[x].size for x in CLIP_VIP_PARAMS if x in flat))
  flat = {name: x for name, x in flat.items() if name not in CLIP_VIP_PARAMS or x.shape[:1] != (0,)}
  flat = fold_normalization(flat, read_normalization(path.parent), source)
  config = from_weights(flat, hints, activation, source)
  _check_sizes(config, source)
  return Weights(
    source=source,
    params=flat,
    config=config,
    is_clip=is_clip,
    tokenizer=str(tokenizer) if json_object.exists(tokenizer) else "",
    hints=hints,
  )


def _check_sizes(model: ConfigDict, source: str) -> None:
  """Raises UserError for a `config.model` that no model can have."""
  try:
    clip_vip.from_config(model)
  except UserError as error:
    raise UserError(f"{source}: {error}") from error


def _read(path: pathlib.Path) -> tuple[Mapping[str, np.ndarray], Hints]:
  """Returns (tensors, hints in the metadata of the file)."""
  tensors, metadata = tensor_files.read(path)
  try:
    return tensors, hints_from_metadata(metadata)
  except UserError as error:
    raise UserError(f"{path}: {error}") from error


def _to_flat(tensors: Mapping[str, np.ndarray], path: pathlib.Path, source: str) -> dict[str, np.ndarray]:
  """Returns {parameter name: array} of tensors with the names of any layout."""
  try:
    if names_openclip.is_openclip(tensors):
      tensors = names_openclip.to_published(tensors, source)
    return names_clip_vip.to_flat(tensors, source)
  except UserError as error:
    if torch_file.is_torchscript(path):
      raise UserError(f"{error}; the file is a TorchScript archive, of which only the tensors are read") from error
    raise


def _is_clip(params: Mapping[str, np.ndarray]) -> bool:
  return not any(name in CLIP_VIP_PARAMS or name.startswith(SEQUENCE_PREFIX) for name in params)


def _float32(name: str, tensor: np.ndarray, source: str) -> np.ndarray:
  if tensor.dtype == np.float32:
    return tensor
  if not (np.issubdtype(tensor.dtype, np.floating) or tensor.dtype.name == "bfloat16"):
    raise UserError(f"{source}: {name} has dtype {tensor.dtype}, expected floating point; save the weights as float32")
  with np.errstate(over="ignore"):  # `load_params.check_finite` reports infinite values
    return tensor.astype(np.float32)
