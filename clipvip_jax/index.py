"""The index: features of many videos in one .npz file, which embed.py writes and search.py reads.

Untrusted like any file: nothing in it is unpickled, and shapes and types are checked.
"""

import dataclasses
import pathlib
import zipfile

import numpy as np
from jaxtyping import Float

from clipvip_jax import files
from clipvip_jax.errors import UserError

_EPOCH = (1980, 1, 1, 0, 0, 0)  # in the zip in place of the time, so that equal indexes are equal files


@dataclasses.dataclass(frozen=True)
class Index:
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


def write(path: pathlib.Path, index: Index) -> None:
  """Writes the file, whole or not at all; the same index gives the same bytes.

  Raises:
    UserError: it cannot be written.
  """
  arrays = {
    "features": np.asarray(index.features, np.float32),
    "videos": _texts(index.videos),
    "source": _texts([index.source]),
    "identity": _texts([index.identity]),
    "bad": _texts(index.bad),
    "reasons": _texts(index.reasons),
  }
  try:
    with files.whole(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
      for name, array in arrays.items():
        with archive.open(zipfile.ZipInfo(f"{name}.npy", _EPOCH), "w", force_zip64=True) as member:
          np.lib.format.write_array(member, array, allow_pickle=False)
  except OSError as error:
    raise UserError(f"{path} cannot be written: {error.strerror or error}") from error


def read(path: pathlib.Path) -> Index:
  """Reads and checks the file.

  Raises:
    UserError: it is not there, or no index.
  """
  if not path.is_file():
    raise UserError(f"index {str(path)!r}: no such file; python -m clipvip_jax.embed makes one")
  try:
    _check_stored(path)
    with np.load(path, allow_pickle=False) as file:
      arrays = {name: file[name] for name in ("features", "videos", "source", "identity", "bad", "reasons")}
  except Exception as error:  # a damaged zip provokes many kinds
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    raise UserError(f"{path} is no index of videos: {reason}") from error
  features = arrays["features"]
  texts = {name: array for name, array in arrays.items() if name != "features"}
  if features.dtype != np.float32 or features.ndim != 2 or not np.isfinite(features).all():
    raise UserError(
      f"{path} is no index of videos: features are {features.dtype} {list(features.shape)}, or not finite"
    )
  if any(array.dtype.kind != "U" or array.ndim != 1 for array in texts.values()):
    raise UserError(f"{path} is no index of videos: names are no texts")
  counts = {name: len(array) for name, array in texts.items()}
  if (counts["videos"], counts["source"], counts["identity"], counts["bad"]) != (
    len(features),
    1,
    1,
    counts["reasons"],
  ):
    raise UserError(f"{path} is no index of videos: {len(features)} features, and {counts}")
  try:
    lists = {name: [str(text) for text in array] for name, array in texts.items()}
  except (SystemError, ValueError) as error:  # numbers that are no characters
    raise UserError(f"{path} is no index of videos: names are no texts") from error
  return Index(features, lists["videos"], lists["source"][0], lists["identity"][0], lists["bad"], lists["reasons"])


def _check_stored(path: pathlib.Path) -> None:
  """Refuses a small file that unpacks to a large one."""
  with zipfile.ZipFile(path) as archive:
    if sum(member.file_size for member in archive.infolist()) > path.stat().st_size:
      raise ValueError("its arrays are compressed")


def _texts(texts: list[str]) -> np.ndarray:
  return np.array(texts, dtype=np.str_) if texts else np.zeros(0, "<U1")
