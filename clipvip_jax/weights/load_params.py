"""Initial parameters from weights of any SOURCE, with every tensor accounted for."""

import concurrent.futures
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from flax import traverse_util
from ml_collections import ConfigDict

from clipvip_jax.models.clip_vip import INITIAL_LOGIT_SCALE, Params
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import list_first, log
from clipvip_jax.weights import position_embedding
from clipvip_jax.weights.sources import CLIP_VIP_PARAMS, SEQUENCE_PREFIX, Weights, read_weights

# Fields of `config.model` that weights must have; positions are resized.
_FIELDS = (
  *("patch_size", "embed_dim", "activation", "text.vocab_size"),
  *(f"{tower}.{name}" for tower in ("vision", "text") for name in ("width", "layers", "heads", "mlp")),
)
_LISTED = 5  # parameters in a message
_ALIGNMENT = 64  # bytes, of arrays that JAX takes over on a CPU without a copy


def load_params(
  source: str, params: Params, crop: str | None = None, model: ConfigDict | None = None
) -> dict[str, np.ndarray]:
  """Reads the weights of a source, fitted to the model and checked against it.

  Weights of a plain CLIP, including a run without added proxies and time embedding, get INITIAL_LOGIT_SCALE in place
  of their own, as the published runs do. Position embeddings are resized to the model's image size and text length.

  Args:
    source: a SOURCE; see sources.py.
    params: the model's parameters or their shapes.
    crop: `data.crop` of the run. Weights of a run with another one are reported.
    model: `config.model` of the run, whose sizes, heads and activation are compared with those of the weights.

  Returns:
    {parameter name: float32 array}. Parameters that CLIP lacks may be missing.

  Raises:
    UserError: the source cannot be read, has other sizes, another activation or values that are not finite, or
      parameters are missing, unexpected or of another shape.
  """
  weights = read_weights(source)
  if model is not None:
    _check_model(weights, model)
  if crop and weights.crop not in (crop, None):
    log.warning("%s was trained with data.crop=%r, this run has data.crop=%r", source, weights.crop, crop)
  check_finite(weights.params, source)
  shapes = shapes_by_name(params)
  loaded = fit_to_shapes(weights, shapes)
  if weights.is_clip:
    loaded["logit_scale"] = np.array(INITIAL_LOGIT_SCALE, np.float32)
  sequence = [name for name in shapes if name.startswith(SEQUENCE_PREFIX)]
  if not any(name in loaded for name in sequence):
    loaded |= _sequence_from_text(loaded, {name: shapes[name] for name in sequence})
  remedy = "use complete weights of these sizes, or --config.sizes_from_weights=True"
  check_complete(loaded, params, source, optional=(*CLIP_VIP_PARAMS, *sequence), model="config.model", remedy=remedy)
  return loaded


def _check_model(weights: Weights, model: ConfigDict) -> None:
  """Raises UserError for weights of other sizes, or of other heads or another activation if the files state them."""
  hints = weights.hints
  stated = {"vision.heads": hints.vision_heads, "text.heads": hints.text_heads, "activation": hints.activation}
  unknown = {path for path, hint in stated.items() if not (weights.run or hint)}
  differences = []
  for path in _FIELDS:
    section, _, name = path.rpartition(".")
    theirs, ours = (x[section][name] if section else x[name] for x in (weights.config, model))
    if theirs != ours and path not in unknown:
      differences.append(f"{path}={theirs}, not {ours}")
  if differences:
    raise UserError(
      f"{weights.source!r} does not fit config.model: its weights have {', '.join(differences)}; use the variant of"
      " their size (configs/sizes.py), or --config.sizes_from_weights=True"
    )
  if "activation" in unknown and weights.config.activation != model.activation:
    log.warning("%s: this run computes model.activation=%s, which no file states", weights.source, model.activation)


def _sequence_from_text(
  loaded: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, np.ndarray]:
  """Returns the text tower's first blocks as the sequence transformer, as in CLIP4Clip; {} where sizes differ."""
  blocks = {name: loaded.get(f"text/{name.removeprefix(SEQUENCE_PREFIX)}") for name in shapes}
  fitting = {name: x for name, x in blocks.items() if x is not None and np.shape(x) == shapes[name]}
  if shapes and len(fitting) < len(shapes):
    log.warning("the sequence transformer starts from random weights: its sizes differ from the text tower's")
    return {}
  return fitting


def shapes_by_name(params: Params) -> dict[str, tuple[int, ...]]:
  """Returns {parameter name: shape} of nested parameters."""
  return {name: tuple(x.shape) for name, x in traverse_util.flatten_dict(params, sep="/").items()}


def fit_to_shapes(weights: Weights, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
  """Returns the weights with position embeddings resized to the model's; other parameters are unchanged."""
  params = dict(weights.params)
  vision, text = "vision/position_embedding", "text/position_embedding"
  if vision in params and vision in shapes:
    params[vision] = position_embedding.resize_grid(params[vision], round((shapes[vision][0] - 1) ** 0.5))
  if text in params and text in shapes:
    params[text] = position_embedding.resize_text(params[text], shapes[text][0])
  return params


def check_complete(
  loaded: Mapping[str, np.ndarray],
  params: Params,
  source: str,
  optional: Sequence[str] = (),
  *,
  model: str = "the model of its sizes",
  remedy: str = "use complete weights of one CLIP",
) -> None:
  """Checks that the loaded parameters are exactly the model's.

  Args:
    loaded: {parameter name: array}.
    params: the model's parameters or their shapes.
    source: for the message.
    optional: names that may be missing.
    model: what sets the sizes, for the message.
    remedy: what to do, for the message.

  Raises:
    UserError: parameters are missing, unexpected or of another shape; counts them and names the first.
  """
  shapes = shapes_by_name(params)
  problems = [f"{name} is missing" for name in shapes if name not in loaded and name not in optional]
  problems += [f"{name} is not a parameter of the model" for name in loaded if name not in shapes]
  problems += [
    f"{name} is {np.shape(loaded[name])}, the model's is {shapes[name]}"
    for name in shapes.keys() & loaded.keys()
    if np.shape(loaded[name]) != shapes[name]
  ]
  if problems:
    raise UserError(f"{source!r} does not fit {model}: {list_first(sorted(problems), _LISTED, '; ')}; {remedy}")


def check_finite(params: Mapping[str, np.ndarray], source: str) -> None:
  """Raises UserError for parameters with NaN or infinite values, whose features and losses are not finite either."""
  if described := describe_not_finite(params):
    raise UserError(f"{source}: {described}; use other weights")


def describe_not_finite(params: Mapping[str, np.ndarray]) -> str:
  """Returns how many values of which parameters are NaN or infinite; "" if there are none."""

  # An array with a finite sum is finite; the sum needs no temporary array. A sum that overflows is checked below.
  def finite(x: np.ndarray) -> bool:
    with np.errstate(over="ignore", invalid="ignore"):
      return bool(np.isfinite(np.sum(x)))

  with concurrent.futures.ThreadPoolExecutor() as pool:  # most of the time goes into reading the file
    suspects = [
      name for name, is_finite in zip(params, pool.map(finite, params.values()), strict=True) if not is_finite
    ]
  counts = {name: int(np.count_nonzero(~np.isfinite(params[name]))) for name in suspects}
  listed = [f"{name} ({count} of {params[name].size})" for name, count in counts.items() if count]
  return f"{sum(counts.values())} values are NaN or infinite: {list_first(listed, _LISTED)}" if listed else ""


def to_devices(
  params: Mapping[str, np.ndarray], shardings: Mapping[str, jax.sharding.Sharding]
) -> dict[str, jax.Array]:
  """Copies arrays to devices, several at a time, since most are transposed views of a file."""

  def put(name: str) -> jax.Array:
    return jax.device_put(_aligned_copy(params[name]), shardings[name])

  with concurrent.futures.ThreadPoolExecutor() as pool:
    return dict(zip(params, pool.map(put, params), strict=True))


def _aligned_copy(x: np.ndarray) -> np.ndarray:
  """Returns a copy that JAX takes over on a CPU, independent of the memory-mapped file, which may change."""
  buffer = np.empty(x.nbytes + _ALIGNMENT, np.uint8)
  start = -buffer.ctypes.data % _ALIGNMENT
  copy = buffer[start : start + x.nbytes].view(x.dtype).reshape(x.shape)
  if x.ndim == 2 and x.dtype == np.float32 and x.T.flags.c_contiguous and x.size:
    import cv2

    cv2.transpose(x.T, copy)  # in blocks: five times as fast as NumPy
  else:
    np.copyto(copy, x)
  return copy


def merge(loaded: Mapping[str, np.ndarray | jax.Array], params: Params) -> Params:
  """Returns `params` with every loaded value; parameters that were not loaded keep theirs."""
  return traverse_util.unflatten_dict({**traverse_util.flatten_dict(params, sep="/"), **loaded}, sep="/")
