"""Video index: the features of many videos in one file, written by `embed` and read by `search`."""

import dataclasses
import pathlib

import numpy as np
from jaxtyping import Float

from clipvip_jax.inference import feature_file
from clipvip_jax.input_pipeline.preprocessing import check_crop
from clipvip_jax.utils.errors import UserError

_KIND = "an index of videos"
_FIELDS = {"videos": list, "source": str, "identity": str, "bad": list, "reasons": list, "crop": str}
_DEFAULTS = {"crop": "squash"}  # of indexes of earlier versions


@dataclasses.dataclass(frozen=True)
class VideoIndex:
  """Features of N videos, and the videos that could not be read.

  Attributes:
    features: of unit length.
    videos: N paths, as they were passed to `embed`.
    source: SOURCE of the model.
    identity: of the model (`EmbeddingModel.identity`); features of different models are not comparable.
    bad: paths of unreadable videos.
    reasons: one error message for each of `bad`.
    crop: how frames became square, see `preprocessing.CROPS`.
  """

  features: Float[np.ndarray, "n e"]
  videos: list[str]
  source: str
  identity: str
  bad: list[str]
  reasons: list[str]
  crop: str = "squash"


def write_index(path: pathlib.Path, index: VideoIndex) -> None:
  """Writes the file atomically; equal indexes give byte-identical files.

  Raises:
    UserError: the file cannot be written.
  """
  fields = {name: getattr(index, name) for name in _FIELDS}
  feature_file.write_features(path, {"features": np.asarray(index.features, np.float32)}, fields)


def read_index(path: pathlib.Path) -> VideoIndex:
  """Reads and checks the file.

  Raises:
    UserError: the file does not exist or is not an index.
  """
  if not path.is_file():
    raise UserError(f"index {str(path)!r}: no such file; python -m clipvip_jax.embed writes one")
  arrays, fields = feature_file.read_features(path, ["features"], _FIELDS, _KIND, _DEFAULTS)
  check_crop(fields["crop"], f"{path} is not {_KIND}: its crop")
  features = arrays["features"]
  if features.dtype != np.float32 or features.ndim != 2:
    raise UserError(f"{path} is not {_KIND}: features are {features.dtype} {list(features.shape)}, expected float32 2D")
  if not np.isfinite(features).all():
    raise UserError(f"{path} is not {_KIND}: features are not finite")
  for name, expected in (("videos", len(features)), ("reasons", len(fields["bad"]))):
    if len(fields[name]) != expected:
      raise UserError(f"{path} is not {_KIND}: it has {len(fields[name])} {name}, expected {expected}")
  return VideoIndex(features, **fields)
