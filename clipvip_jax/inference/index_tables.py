"""Merging of video indexes: parts of a build, or shards."""

import dataclasses
import pathlib
from collections.abc import Iterable, Sequence

import numpy as np

from clipvip_jax.inference import video_index
from clipvip_jax.inference.video_index import VideoIndex


def merge_tables(paths: Iterable[pathlib.Path]) -> VideoIndex:
  """Returns what indexes contain together, except for their features: no file stays mapped.

  Raises:
    UserError: a file cannot be read.
  """
  indexes = map(video_index.read_index, paths)
  return merge([dataclasses.replace(index, features=np.array(index.features[:0])) for index in indexes])


def merge(parts: Sequence[VideoIndex]) -> VideoIndex:
  """Concatenates indexes of one model; at least one."""
  return dataclasses.replace(
    parts[0],
    features=np.concatenate([part.features for part in parts]),
    videos=[name for part in parts for name in part.videos],
    bad=[name for part in parts for name in part.bad],
    reasons=[reason for part in parts for reason in part.reasons],
    versions=_merge_versions(parts),
  )


def _merge_versions(parts: Sequence[VideoIndex]) -> list[str]:
  versions = [version for part in parts for version in part.versions or [""] * len(part.videos)]
  return versions if any(versions) else []
