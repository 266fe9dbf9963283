"""Starts a model from weights of any source: every parameter is loaded, or is one that CLIP lacks."""

import concurrent.futures
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from clipvip_jax.models.clip_vip import INITIAL_LOGIT_SCALE
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import log
from clipvip_jax.weights import position_embedding
from clipvip_jax.weights.sources import ADDED, SEQUENCE, Weights, read_weights

_ALIGNMENT = 64  # bytes: of a CPU's array in JAX


def load_params(source: str, params: Any) -> dict[str, np.ndarray]:
  """What a source holds, {our name: float32 array}, all of it fitted to the model and checked against it.

  The logit scale is 4.60 when the weights are a plain CLIP's, whatever they say (the published runs' start); a run of
  ours without added proxies and time embedding is one, too. Embeddings of position are resized where the model has
  another image size or text length.

  Args:
    source: see sources.py.
    params: the model's parameters, or their shapes (`jax.eval_shape`).

  Raises:
    UserError: the source cannot be read, or a name or a shape does not fit; all of them are named.
  """
  weights = read_weights(source)
  shapes = shapes_by_name(params)
  loaded = fit_to_shapes(weights, shapes)
  if weights.is_clip:
    loaded["logit_scale"] = np.array(INITIAL_LOGIT_SCALE, np.float32)
  sequence = [name for name in shapes if name.startswith(SEQUENCE)]
  if not any(name in loaded for name in sequence):
    loaded |= _sequence_from_text(loaded, {name: shapes[name] for name in sequence})
  check_complete(loaded, params, source, may_lack=(*ADDED, *sequence))
  return loaded


def _sequence_from_text(
  loaded: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, np.ndarray]:
  """The transformer over frames as the text tower's first blocks, as CLIP4Clip starts it; {} where sizes differ."""
  found = {name: loaded.get(f"text/{name.removeprefix(SEQUENCE)}") for name in shapes}
  fits = {name: x for name, x in found.items() if x is not None and np.shape(x) == shapes[name]}
  if shapes and len(fits) < len(shapes):
    log.warning("the transformer over frames starts from random weights: the text tower's sizes differ")
    return {}
  return fits


def shapes_by_name(params: Any) -> dict[str, tuple[int, ...]]:
  """{our name: shape} of nested parameters."""
  return {name: tuple(x.shape) for name, x in traverse_util.flatten_dict(params, sep="/").items()}


def fit_to_shapes(weights: Weights, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
  """The parameters, with the embeddings of position resized to the model's; what cannot be resized stays as it is."""
  params = dict(weights.params)
  vision, text = "vision/position_embedding", "text/position_embedding"
  if vision in params and vision in shapes:
    params[vision] = position_embedding.resize_grid(params[vision], round((shapes[vision][0] - 1) ** 0.5))
  if text in params and text in shapes:
    params[text] = position_embedding.resize_text(params[text], shapes[text][0])
  return params


def check_complete(loaded: Mapping[str, np.ndarray], params: Any, source: str, may_lack: Sequence[str] = ()) -> None:
  """Refuses parameters that are not exactly the model's; `may_lack` names those that may be missing.

  Raises:
    UserError: names every one that is missing, too many or of another shape.
  """
  shapes = shapes_by_name(params)
  problems = [f"{name} is missing" for name in shapes if name not in loaded and name not in may_lack]
  problems += [f"{name} has no place in this model" for name in loaded if name not in shapes]
  problems += [
    f"{name} is {np.shape(loaded[name])}, the model's is {shapes[name]}"
    for name in shapes.keys() & loaded.keys()
    if np.shape(loaded[name]) != shapes[name]
  ]
  if problems:
    raise UserError(f"{source!r} does not fit config.model: {'; '.join(sorted(problems))}")


def to_devices(params: Mapping[str, np.ndarray], shardings: Mapping[str, Any]) -> dict[str, jax.Array]:
  """The arrays on the devices. Several are copied at a time: most are transposed views of a file, to be turned."""

  def put(name: str) -> jax.Array:
    return jax.device_put(_aligned_copy(params[name]), shardings[name])

  with concurrent.futures.ThreadPoolExecutor() as pool:
    return dict(zip(params, pool.map(put, params), strict=True))


def _aligned_copy(x: np.ndarray) -> np.ndarray:
  """A copy that JAX on a CPU takes over as it is; also of memory that is a file, which may change."""
  buffer = np.empty(x.nbytes + _ALIGNMENT, np.uint8)
  start = -buffer.ctypes.data % _ALIGNMENT
  copy = buffer[start : start + x.nbytes].view(x.dtype).reshape(x.shape)
  if x.ndim == 2 and x.dtype == np.float32 and x.T.flags.c_contiguous and x.size:
    import cv2

    cv2.transpose(x.T, copy)  # by blocks: five times as fast as NumPy
  else:
    np.copyto(copy, x)
  return copy


def merge(loaded: Mapping[str, np.ndarray], params: Any) -> Any:
  """`params` with every value that was loaded; proxies and time embedding stay as they are where CLIP has none."""
  return traverse_util.unflatten_dict({**traverse_util.flatten_dict(params, sep="/"), **loaded}, sep="/")
