"""Embeddings of a split, in memory and on disk: enough to measure retrieval again without the model and the corpus.

Letters: V clips, N queries, E embedding size. Files are untrusted: shapes, types and values are checked.
"""

import collections
import dataclasses
import hashlib
import pathlib
import re
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from clipvip_jax.inference import feature_file
from clipvip_jax.utils.errors import UserError

_KIND = "a file of embeddings"
_ARRAYS = ("videos", "queries", "labels", "twins")
_FIELDS = {"split": str, "ids": list, "texts": list, "counts": dict, "about": dict}
_COUNTS = ("expected", "missing", "missing_captions")


@dataclasses.dataclass(frozen=True)
class SplitEmbeddings:
  """Features of the clips and queries of a split, with the texts and labels that retrieval is measured on.

  Attributes:
    split: its name.
    videos: features of unit length.
    queries: features of unit length, ordered by clip.
    ids: [V].
    texts: [N], of the queries.
    labels: [N], the index of each query's clip.
    twins: [V], the index of each clip's temporal hard negative (a clip that differs in motion or order only); -1: none.
    counts: "expected", clips of the complete split; "missing", how many of them the corpus lacks; "missing_captions".
    about: model, corpus and configuration, as in results.json.
  """

  split: str
  videos: Float[np.ndarray, "v e"]
  queries: Float[np.ndarray, "n e"]
  ids: list[str]
  texts: list[str]
  labels: list[int]
  twins: list[int]
  counts: dict[str, int]
  about: dict[str, Any] = dataclasses.field(default_factory=dict)

  def similarity(self) -> Float[np.ndarray, "n v"]:
    """Returns cosine similarities; equal features have bit-identical similarities, so that ties are exact.

    Raises:
      UserError: features are not finite; names the clips or texts.
    """
    for kind, features, names in (("clip", self.videos, self.ids), ("query", self.queries, self.texts)):
      bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
      if bad.size:
        first = ", ".join(repr(names[i]) for i in bad[:3])
        raise UserError(
          f"split {self.split}: the features of {bad.size} of {len(names)} are not finite, those of {kind} {first};"
          " check the weights and the pixels for NaN"
        )
    # A matrix product adds up equal rows in different orders at different positions: multiply each distinct row once.
    (queries, query_index), (videos, video_index) = map(_distinct_rows, (self.queries, self.videos))
    similarity = queries @ videos.T
    if similarity.shape == (len(query_index), len(video_index)):
      return similarity
    return similarity[query_index][:, video_index]

  def duplicate_queries(self) -> int:
    """Counts the queries that equal a query of another clip up to case, white space and Unicode's normal form.

    Their tokens are equal, so no model can rank these.
    """
    normalized = [" ".join(unicodedata.normalize("NFC", text).lower().split()) for text in self.texts]
    clips = collections.defaultdict(set)
    for text, label in zip(normalized, self.labels, strict=True):
      clips[text].add(label)
    return sum(len(clips[text]) > 1 for text in normalized)


def _distinct_rows(rows: Float[np.ndarray, "n e"]) -> tuple[Float[np.ndarray, "m e"], np.ndarray]:
  """Returns the distinct rows in order of appearance, and the index of each row among them."""
  numbers: dict[bytes, int] = {}
  positive = rows + np.float32(0)  # -0.0 equals 0.0, but has other bytes
  digests = (hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in positive)
  index = np.array([numbers.setdefault(digest, len(numbers)) for digest in digests], np.int64)
  return rows[np.unique(index, return_index=True)[1]], index


def file_name(split: str) -> str:
  """Returns the name of a split's file in an evaluation's workdir."""
  return f"embeddings_{split}{feature_file.SUFFIX}"


def write_embeddings(path: pathlib.Path, embeddings: SplitEmbeddings) -> None:
  """Writes the file atomically; equal embeddings give byte-identical files.

  Raises:
    UserError: the file cannot be written.
  """
  arrays: dict[str, np.ndarray] = {
    "videos": np.asarray(embeddings.videos, np.float32),
    "queries": np.asarray(embeddings.queries, np.float32),
    "labels": np.asarray(embeddings.labels, np.int64),
    "twins": np.asarray(embeddings.twins, np.int64),
  }
  feature_file.write_features(path, arrays, {name: getattr(embeddings, name) for name in _FIELDS})


def read_embeddings(path: pathlib.Path) -> SplitEmbeddings:
  """Reads and checks the file.

  Raises:
    UserError: the file does not exist, is not a file of embeddings, or its parts do not match; names which.
  """
  if not path.is_file():
    raise UserError(f"embeddings {str(path)!r}: no such file; python -m clipvip_jax.evaluate --model=... writes one")
  arrays, fields = feature_file.read_features(path, _ARRAYS, _FIELDS, _KIND)
  problem = (
    _features_problem(arrays["videos"], arrays["queries"])
    or _length_problem(arrays, fields)
    or _index_problem(arrays, fields["ids"])
    or _counts_problem(fields["counts"])
  )
  if problem is None and not re.fullmatch(r"[\w-][\w.-]*", fields["split"]):
    problem = f"split {fields['split']!r} is not a valid name"
  if problem is not None:
    raise UserError(f"{path} is not {_KIND}: {problem}")
  return SplitEmbeddings(
    videos=arrays["videos"],
    queries=arrays["queries"],
    labels=arrays["labels"].tolist(),
    twins=arrays["twins"].tolist(),
    **fields,
  )


def _features_problem(videos: np.ndarray, queries: np.ndarray) -> str | None:
  """Returns what is wrong with the features, or None; likewise the functions below."""
  for name, features in (("videos", videos), ("queries", queries)):
    if features.dtype != np.float32 or features.ndim != 2 or not features.size:
      return f"{name} are {features.dtype} {list(features.shape)}, expected float32 [count, size], not empty"
    if not np.isfinite(features).all():
      return f"{name} are not finite in row {int(np.argmin(np.isfinite(features).all(axis=1)))}"
  if videos.shape[1] != queries.shape[1]:
    return f"videos have {videos.shape[1]} features, queries have {queries.shape[1]}"
  return None


def _length_problem(arrays: dict[str, np.ndarray], fields: dict[str, Any]) -> str | None:
  num_clips, num_queries = len(arrays["videos"]), len(arrays["queries"])
  for name, count in {"labels": num_queries, "twins": num_clips}.items():
    array = arrays[name]
    if array.dtype != np.int64 or array.shape != (count,):
      return f"{name} are {array.dtype} {list(array.shape)}, expected int64 [{count}]"
  for name, count in {"ids": num_clips, "texts": num_queries}.items():
    if len(fields[name]) != count:
      return f"it has {len(fields[name])} {name}, expected {count}"
  return None


def _index_problem(arrays: dict[str, np.ndarray], ids: Sequence[str]) -> str | None:
  num_clips = len(ids)
  for name, lowest in (("labels", 0), ("twins", -1)):
    wrong = np.flatnonzero((arrays[name] < lowest) | (arrays[name] >= num_clips))
    if wrong.size:
      return f"{name}[{wrong[0]}] is {arrays[name][wrong[0]]}, allowed are {lowest} to {num_clips - 1}"
  return None


def _counts_problem(counts: dict[str, Any]) -> str | None:
  if counts.keys() != set(_COUNTS) or not all(type(count) is int and count >= 0 for count in counts.values()):
    return f"counts must be {', '.join(_COUNTS)}, integers of at least 0"
  return None
