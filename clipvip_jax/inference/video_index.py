"""The index: features of many videos in one .npz file, which embed.py writes and search.py reads.

Untrusted like any file: nothing in it is unpickled, and shapes and types are checked.
"""

import dataclasses
import pathlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from clipvip_jax.utils import npz
from clipvip_jax.utils.errors import UserError


@dataclasses.dataclass(frozen=True)
class VideoIndex:
  """N videos that could be read, and those that could not.

  Attributes:
    features: unit length.
    videos: N paths, as they were given.
    source: of the model.
    identity: of the model; features of another one cannot be compared.
    bad: paths that could not be read.
    reasons: why, for each of them.
  """

  features: Float[np.ndarray, "n e"]
  videos: list[str]
  source: str
  identity: str
  bad: list[str]
  reasons: list[str]


def write_index(path: pathlib.Path, index: VideoIndex) -> None:
  """Writes the file, whole or not at all; the same index gives the same bytes.

  Raises:
    UserError: it cannot be written.
  """
  contents: dict[str, np.ndarray | Sequence[str]] = {
    "features": np.asarray(index.features, np.float32),
    "videos": index.videos,
    "source": [index.source],
    "identity": [index.identity],
    "bad": index.bad,
    "reasons": index.reasons,
  }
  npz.write(path, contents)


def read_index(path: pathlib.Path) -> VideoIndex:
  """Reads and checks the file.

  Raises:
    UserError: it is not there, or no index.
  """
  if not path.is_file():
    raise UserError(f"index {str(path)!r}: no such file; python -m clipvip_jax.embed makes one")
  names = ("videos", "source", "identity", "bad", "reasons")
  arrays, texts = npz.read(path, ["features"], names, "index of videos")
  features = arrays["features"]
  if features.dtype != np.float32 or features.ndim != 2 or not np.isfinite(features).all():
    raise UserError(
      f"{path} is no index of videos: features are {features.dtype} {list(features.shape)}, or not finite"
    )
  counts = {name: len(values) for name, values in texts.items()}
  if (counts["videos"], counts["source"], counts["identity"], counts["bad"]) != (
    len(features),
    1,
    1,
    counts["reasons"],
  ):
    raise UserError(f"{path} is no index of videos: {len(features)} features, and {counts}")
  return VideoIndex(features, texts["videos"], texts["source"][0], texts["identity"][0], texts["bad"], texts["reasons"])
