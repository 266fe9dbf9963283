"""Starts a model from published weights: every parameter is loaded, or is one that CLIP lacks."""

import pathlib
from typing import Any

import numpy as np
from flax import traverse_util

from clipvip_jax.errors import UserError
from clipvip_jax.models.clip_vip import INITIAL_LOGIT_SCALE
from clipvip_jax.weights import published

# What CLIP-ViP adds to CLIP, and what may therefore be missing from a checkpoint.
ADDED = ("vision/added_proxies", "vision/time_embedding")


def check_source(source: str) -> None:
  """Refuses weights that are not there or in no format that can be read.

  Raises:
    UserError: says what is allowed.
  """
  path = pathlib.Path(source)
  if path.suffix != ".safetensors":
    raise UserError(f"init_from={source!r}: weights are read from a .safetensors file")
  if not path.is_file():
    raise UserError(
      f"init_from={source!r}: no such file. Put the weights there (CLIP's are published on HuggingFace as "
      "openai/clip-vit-base-patch32 and openai/clip-vit-base-patch16, file model.safetensors), or start from random "
      "parameters with --config.init_from="
    )


def load(source: str, params: Any) -> dict[str, np.ndarray]:
  """What the file holds, {our name: float32 array}, all of it checked against the model.

  The logit scale is 4.60 when the weights are CLIP's, whatever they say.

  Args:
    source: a .safetensors file.
    params: the model's parameters, or their shapes (`jax.eval_shape`).

  Raises:
    UserError: the file cannot be read, or a name or a shape does not fit; all of them are named.
  """
  from safetensors import SafetensorError
  from safetensors.numpy import load_file

  check_source(source)
  try:
    tensors = load_file(source)
  except (SafetensorError, OSError, ValueError, TypeError) as error:  # TypeError: bfloat16, which NumPy lacks
    raise UserError(f"init_from={source!r} cannot be read: {error}") from error
  loaded = traverse_util.flatten_dict(published.to_params(tensors, source), sep="/")
  shapes = {name: x.shape for name, x in traverse_util.flatten_dict(params, sep="/").items()}
  if not any(name in loaded for name in ADDED):
    loaded["logit_scale"] = np.float32(INITIAL_LOGIT_SCALE)
  problems = [f"{name} is missing" for name in shapes if name not in loaded and name not in ADDED]
  problems += [f"{name} has no place in this model" for name in loaded if name not in shapes]
  problems += [
    f"{name} is {np.shape(loaded[name])}, the model's is {shapes[name]}"
    for name in shapes.keys() & loaded.keys()
    if np.shape(loaded[name]) != shapes[name]
  ]
  if problems:
    raise UserError(f"init_from={source!r} does not fit config.model: {'; '.join(sorted(problems))}")
  return loaded


def place(loaded: dict[str, np.ndarray], params: Any) -> Any:
  """`params` with every value that was loaded; proxies and time embedding stay as they are where CLIP has none."""
  return traverse_util.unflatten_dict({**traverse_util.flatten_dict(params, sep="/"), **loaded}, sep="/")
