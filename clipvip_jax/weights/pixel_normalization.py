"""Normalization of pixels that weights were trained with, from the files next to them, folded into the weights.

The input pipeline subtracts CLIP's mean and divides by CLIP's standard deviation. Weights that expect other values get
an equivalent patch embedding: the scale of each colour multiplies its kernel, and the constant shift of every patch is
added to the position embeddings of the patches. The features are those of the original weights on their own pixels.
"""

import math
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from clipvip_jax.input_pipeline.preprocessing import MEAN, STD
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import log, printable
from clipvip_jax.weights import config_fields, json_object

_PROCESSOR = "CLIPImageProcessor"
# Classes of transformers with CLIP's mean, deviation and bicubic resampling as defaults; others that are bicubic.
_CLIP_PROCESSORS = re.compile(r"CLIP(ImageProcessor(Fast|Pil)?|FeatureExtractor)")
_BICUBIC_PROCESSORS = re.compile(r"(CLIP|ChineseCLIP|Siglip|Blip)(ImageProcessor(Fast|Pil)?|FeatureExtractor)")
_LIMITS = {"mean": (-1.0, 1.0), "std": (1e-6, 2.0)}  # of pixels in [0, 1]
_TOLERANCE = 1e-6  # of published values, which are rounded to 7 or 8 digits

# Mean and standard deviation of red, green and blue.
Normalization = tuple[tuple[float, ...], tuple[float, ...]]


def read_normalization(folder: pathlib.Path) -> Normalization | None:
  """Reads preprocess_cfg of open_clip_config.json, preprocessor_config.json and processor_config.json in a folder.

  Returns:
    (mean, std) of pixels in [0, 1]; None if no file states them.

  Raises:
    UserError: a file is invalid, contradicts another, or asks for preprocessing that is not supported.
  """
  values: dict[str, Normalization] = {}
  files = {
    "open_clip_config.json": _openclip,
    "preprocessor_config.json": _huggingface,
    "processor_config.json": _huggingface_processor,
  }
  for name, parse in files.items():
    path = folder / name
    if not json_object.exists(path):
      continue
    try:
      normalization = parse(json_object.read(path))
    except UserError as error:
      raise UserError(f"{path}: {error}") from error
    except Exception as error:  # of many types, for values of other types than a configuration has
      reason = f"{type(error).__name__} {printable(error, 160)}"
      raise UserError(f"{path} is not a configuration of preprocessing ({reason}); remove or fix it") from error
    if normalization is not None:
      values[name] = normalization
  if any(not _close(value, next(iter(values.values()))) for value in values.values()):
    raise UserError(f"{folder}: {' and '.join(values)} state different means or deviations of pixels; fix one of them")
  return next(iter(values.values()), None)


def fold_normalization(
  params: Mapping[str, np.ndarray], normalization: Normalization | None, source: str
) -> dict[str, np.ndarray]:
  """Returns parameters for pixels of CLIP's normalization; unchanged if `normalization` is None or CLIP's.

  Args:
    params: {parameter name: float32 array}.
    normalization: (mean, std) that the parameters were trained with.
    source: their SOURCE, for a log line.
  """
  kernel, positions = params.get("vision/patch_embedding"), params.get("vision/position_embedding")
  if normalization is None or is_clip(normalization):
    return dict(params)
  if kernel is None or positions is None or kernel.ndim != 4:
    return dict(params)  # refused by name when sizes are inferred
  mean, std = (np.array(values) for values in normalization)
  scale, shift = np.array(STD) / std, (np.array(MEAN) - mean) / std
  if kernel.shape[2] != len(scale) or positions.shape[1:] != kernel.shape[3:]:
    return dict(params)  # refused with its shape by the check against the model
  folded = positions.astype(np.float64)
  folded[1:] += np.einsum("hwcd,c->d", kernel.astype(np.float64), shift)  # the first position is of the class token
  log.info("%s: mean %s and std %s of pixels are folded into the patch embedding", source, *normalization)
  with np.errstate(over="ignore"):  # `load_params.check_finite` reports infinite values
    return {
      **params,
      "vision/patch_embedding": (kernel * scale[:, None]).astype(np.float32),
      "vision/position_embedding": folded.astype(np.float32),
    }


def is_clip(normalization: Normalization) -> bool:
  """Returns whether these are CLIP's mean and standard deviation."""
  return _close(normalization, (MEAN, STD))


def _close(a: Normalization, b: Normalization) -> bool:
  return bool(np.allclose(np.array(a), np.array(b), rtol=0, atol=_TOLERANCE))


def _openclip(config: dict[str, Any]) -> Normalization | None:
  section = config.get("preprocess_cfg") or {}
  config_fields.OPENCLIP_PREPROCESSING.check(section, "preprocess_cfg.")
  return _normalization(section, "preprocess_cfg.mean", "preprocess_cfg.std")


def _huggingface(config: dict[str, Any]) -> Normalization | None:
  fields = {name: value for name, value in config.items() if name != "rescale_factor"}
  factor = config.get("rescale_factor", 1 / 255)
  if type(factor) is float and math.isclose(factor, 1 / 255, rel_tol=1e-5):  # some files have 0.00392156862745098
    fields["rescale_factor"] = 1 / 255
  else:
    fields["rescale_factor"] = factor
  config_fields.PREPROCESSOR.check(fields, "")
  processor = config.get("image_processor_type", config.get("feature_extractor_type", _PROCESSOR))
  if not _BICUBIC_PROCESSORS.fullmatch(str(processor)) and "resample" not in config:
    raise UserError(
      f"image_processor_type={printable(repr(processor), 80)} without resample; add the value that the weights were"
      " trained with (3 is bicubic, as CLIP's)"
    )
  if not config.get("do_normalize", True):
    return (0.0,) * 3, (1.0,) * 3
  if not _CLIP_PROCESSORS.fullmatch(str(processor)) and not {"image_mean", "image_std"} <= config.keys():
    raise UserError(
      f"image_processor_type={printable(repr(processor), 80)} without image_mean and image_std; add the values that the"
      " weights were trained with"
    )
  return _normalization(config, "image_mean", "image_std")


def _huggingface_processor(config: dict[str, Any]) -> Normalization | None:
  """Reads the section into which transformers since 5.0 saves the image processor of a CLIPProcessor."""
  section = config.get("image_processor")
  return None if section is None else _huggingface(section)


def _normalization(section: Mapping[str, Any], mean_name: str, std_name: str) -> Normalization | None:
  values = []
  for name, default, limits in ((mean_name, MEAN, _LIMITS["mean"]), (std_name, STD, _LIMITS["std"])):
    value = section.get(name.rpartition(".")[2], default)
    if type(value) in (int, float):
      value = [value] * 3
    if not isinstance(value, list | tuple) or len(value) != 3 or not all(type(x) in (int, float) for x in value):
      raise UserError(f"{name}={printable(repr(value), 80)} must be three numbers, for red, green and blue")
    if not all(limits[0] <= x <= limits[1] for x in value):
      raise UserError(
        f"{name}={printable(repr(value), 80)} must be from {limits[0]:g} to {limits[1]:g}, of pixels from 0 to 1;"
        " divide values of pixels from 0 to 255 by 255"
      )
    values.append(tuple(float(x) for x in value))
  return values[0], values[1]
