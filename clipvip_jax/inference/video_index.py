"""Video index: the features of many videos in one file, written by `embed` and read by `search`."""

import dataclasses
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Float

from clipvip_jax.inference import feature_file
from clipvip_jax.inference.video_clip import VideoClip
from clipvip_jax.input_pipeline.preprocessing import check_crop
from clipvip_jax.utils.errors import UserError
from clipvip_jax.weights.mmap_file import iterate_blocks

_KIND = "an index of videos"
_LENGTH_TOLERANCE = 0.01  # of squared lengths: models may compute in bfloat16
_FIELDS = {"videos": list, "source": str, "identity": str, "bad": list, "reasons": list, "crop": str}
_OPTIONAL: dict[str, str | list[str]] = {"segments": "", "shard": "", "versions": []}  # not written if empty
_DEFAULTS = {"crop": "squash", **_OPTIONAL}  # of indexes of earlier versions


@dataclasses.dataclass(frozen=True)
class VideoIndex:
  """Features of N videos, and the videos that could not be read.

  Attributes:
    features: of unit length; of a large index that was read, a read-only view of the mapped file.
    videos: N paths, as they were passed to `embed`.
    source: SOURCE of the model.
    identity: of the model (`EmbeddingModel.identity`); features of different models are not comparable.
    bad: paths of unreadable videos.
    reasons: one error message for each of `bad`.
    crop: how frames became square, see `preprocessing.CROPS`.
    segments: length of the moments that were embedded, such as "10s", if `videos` are names of `VideoClip`s; "" if they
      are paths.
    shard: which part of an index this is, see `index_shards`; "" for a complete index.
    versions: of the file of each of `videos` when it was embedded, see `media_versions`; none in indexes of earlier
      versions of the project.
  """

  features: Float[np.ndarray, "n e"]
  videos: list[str]
  source: str
  identity: str
  bad: list[str]
  reasons: list[str]
  crop: str = "squash"
  segments: str = ""
  shard: str = ""
  versions: list[str] = dataclasses.field(default_factory=list)

  def clip(self, row: int) -> VideoClip:
    """Returns the clip of a row of `features`."""
    return VideoClip.from_name(self.videos[row]) if self.segments else VideoClip(self.videos[row])

  def select(self, rows: Sequence[int]) -> "VideoIndex":
    """Returns the index with these rows of `features`, in this order."""
    videos, versions = ([column[row] for row in rows] if column else [] for column in (self.videos, self.versions))
    return dataclasses.replace(self, features=self.features[rows], videos=videos, versions=versions)

  def replaced(self, versions: Mapping[str, str]) -> set[str]:
    """Returns the videos whose files have other versions now; not those that are gone or whose version is unknown."""
    recorded = zip(self.videos, self.versions, strict=True) if self.versions else ()
    return {name for name, version in recorded if version and versions[name] not in ("", version)}


def write_index(path: pathlib.Path, index: VideoIndex) -> None:
  """Writes the file atomically; equal indexes give byte-identical files.

  Raises:
    UserError: the file cannot be written.
  """
  feature_file.write_features(path, {"features": np.asarray(index.features, np.float32)}, _fields(index))


def write_joined(path: pathlib.Path, table: VideoIndex, files: Sequence[pathlib.Path]) -> None:
  """Writes as `write_index` does, with the features of other index files one after the other, in little memory.

  Args:
    path: the file.
    table: all but the features.
    files: the indexes that have the features of `table.videos`, in this order.

  Raises:
    UserError: a file cannot be read, or the index cannot be written.
  """

  def blocks() -> Iterator[np.ndarray]:
    for file in files:
      yield from iterate_blocks(read_index(file).features)

  shape = (len(table.videos), table.features.shape[1])
  feature_file.write_features(path, {"features": feature_file.RowBlocks(shape, blocks)}, _fields(table))


def _are_unit_vectors(features: Float[np.ndarray, "n e"]) -> bool:
  with np.errstate(over="ignore"):
    return bool((np.abs(np.einsum("ne,ne->n", features, features) - 1) < _LENGTH_TOLERANCE).all())


def _fields(index: VideoIndex) -> dict[str, str | list[str]]:
  optional = {name: value for name in _OPTIONAL if (value := getattr(index, name))}
  return {name: getattr(index, name) for name in _FIELDS} | optional


def read_index(path: pathlib.Path) -> VideoIndex:
  """Maps the file into memory and checks it.

  Raises:
    UserError: the file does not exist or is not an index.
  """
  if not path.is_file():
    problem = "not a file" if os.path.lexists(path) else "no such file"
    raise UserError(f"index {str(path)!r}: {problem}; python -m clipvip_jax.embed writes one")
  types = _FIELDS | {name: type(value) for name, value in _OPTIONAL.items()}
  arrays, fields = feature_file.read_features(path, ["features"], types, _KIND, _DEFAULTS, mapped=True)
  check_crop(fields["crop"], f"{path} is not {_KIND}: its crop")
  features = arrays["features"]
  if features.dtype != np.float32 or features.ndim != 2:
    raise UserError(f"{path} is not {_KIND}: features are {features.dtype} {list(features.shape)}, expected float32 2D")
  if not all(_are_unit_vectors(block) for block in iterate_blocks(features)):
    raise UserError(f"{path} is not {_KIND}: features are not finite, or not of unit length")
  counts = {"videos": len(features), "reasons": len(fields["bad"])}
  if fields["versions"]:
    counts["versions"] = len(features)
  for name, expected in counts.items():
    if len(fields[name]) != expected:
      raise UserError(f"{path} is not {_KIND}: it has {len(fields[name])} {name}, expected {expected}")
  return VideoIndex(features, **fields)
