"""Embeddings of a split, with all that is needed to measure retrieval again without the model and the corpus.

Letters: V clips, N queries, E embedding size. In a file they are untrusted like any: nothing is unpickled, and shapes,
types and numbers are checked.
"""

import collections
import dataclasses
import hashlib
import json
import pathlib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from clipvip_jax.utils import npz
from clipvip_jax.utils.errors import UserError

_KIND = "file of embeddings"
_COUNTS = ("expected", "missing", "missing_captions")


@dataclasses.dataclass(frozen=True)
class SplitEmbeddings:
  """What a model makes of a split.

  Attributes:
    split: its name.
    videos: of unit length.
    queries: likewise, those of the first clip first.
    ids: [V].
    texts: [N], of the queries.
    labels: [N], the clip of each query.
    twins: [V], the clip that differs in motion or order only; -1: none.
    counts: "expected", clips that the split should hold; "missing", those of them that it does not; and
      "missing_captions".
    about: what made them, as results.json says it.
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
    """Cosines of queries and videos. Equal features have equal ones to the last bit, so that ties are ties.

    Raises:
      UserError: features that are not finite; names the clips and texts.
    """
    for what, features, names in (("clip", self.videos, self.ids), ("query", self.queries, self.texts)):
      bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
      if bad.size:
        named = ", ".join(repr(names[i]) for i in bad[:3])
        raise UserError(
          f"split {self.split}: the features of {bad.size} of {len(names)} are not finite, those of {what} {named}:"
          " the weights or the pixels are damaged"
        )
    # A product adds up equal rows in another order where they stand elsewhere, so each is multiplied once.
    (queries, query_of), (videos, video_of) = map(_distinct, (self.queries, self.videos))
    found = queries @ videos.T
    return found if found.shape == (len(query_of), len(video_of)) else found[query_of][:, video_of]

  def duplicate_queries(self) -> int:
    """Queries that another clip's query equals but for case and spaces: no model can tell whose they are."""
    said = [" ".join(text.lower().split()) for text in self.texts]
    clips = collections.defaultdict(set)
    for text, label in zip(said, self.labels, strict=True):
      clips[text].add(label)
    return sum(len(clips[text]) > 1 for text in said)


def _distinct(rows: Float[np.ndarray, "n e"]) -> tuple[Float[np.ndarray, "m e"], np.ndarray]:
  """(the distinct rows in order, which of them each row is)."""
  numbers: dict[bytes, int] = {}
  digests = (hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in rows)
  which = np.array([numbers.setdefault(digest, len(numbers)) for digest in digests], np.int64)
  return rows[np.unique(which, return_index=True)[1]], which


def write_embeddings(path: pathlib.Path, found: SplitEmbeddings) -> None:
  """Writes the file, whole or not at all; the same embeddings give the same bytes.

  Raises:
    UserError: it cannot be written.
  """
  contents: dict[str, np.ndarray | Sequence[str]] = {
    "videos": np.asarray(found.videos, np.float32),
    "queries": np.asarray(found.queries, np.float32),
    "labels": np.asarray(found.labels, np.int64),
    "twins": np.asarray(found.twins, np.int64),
    "counts": np.array([found.counts[name] for name in _COUNTS], np.int64),
    "ids": found.ids,
    "texts": found.texts,
    "split": [found.split],
    "about": [json.dumps(found.about, sort_keys=True)],
  }
  npz.write(path, contents)


def read_embeddings(path: pathlib.Path) -> SplitEmbeddings:
  """Reads and checks the file.

  Raises:
    UserError: it is not there, is no such file, or its parts do not match; names which.
  """
  if not path.is_file():
    raise UserError(f"embeddings {str(path)!r}: no such file; python -m clipvip_jax.evaluate --model=... writes one")
  arrays, texts = npz.read(
    path, ("videos", "queries", "labels", "twins", "counts"), ("ids", "texts", "split", "about"), _KIND
  )
  problem = (
    _wrong_features(arrays["videos"], arrays["queries"])
    or _wrong_lengths(arrays, texts)
    or _wrong_numbers(arrays, texts["ids"])
  )
  about = _about(texts["about"])
  if problem is None and not re.fullmatch(r"[\w-][\w.-]*", "".join(texts["split"])):
    problem = f"split is {texts['split']}, no name"
  if problem is None and about is None:
    problem = "about is no JSON object"
  if problem is not None:
    raise UserError(f"{path} is no {_KIND}: {problem}")
  counts = dict(zip(_COUNTS, arrays["counts"].tolist(), strict=True))
  labels, twins = arrays["labels"].tolist(), arrays["twins"].tolist()
  ids, queries = texts["ids"], texts["texts"]
  return SplitEmbeddings(
    texts["split"][0], arrays["videos"], arrays["queries"], ids, queries, labels, twins, counts, about or {}
  )


def _wrong_features(videos: np.ndarray, queries: np.ndarray) -> str | None:
  """What is wrong with the features, None where nothing is; likewise below."""
  for name, features in (("videos", videos), ("queries", queries)):
    if features.dtype != np.float32 or features.ndim != 2 or not features.size:
      return f"{name} are {features.dtype} {list(features.shape)}, expected float32 [count, size], not empty"
    if not np.isfinite(features).all():
      return f"{name} are not finite in row {int(np.argmin(np.isfinite(features).all(axis=1)))}"
  if videos.shape[1] != queries.shape[1]:
    return f"videos have features of {videos.shape[1]} numbers, queries of {queries.shape[1]}"
  return None


def _wrong_lengths(arrays: dict[str, np.ndarray], texts: dict[str, list[str]]) -> str | None:
  clips, queries = len(arrays["videos"]), len(arrays["queries"])
  expected = {"labels": queries, "twins": clips, "counts": len(_COUNTS)}
  for name, count in expected.items():
    array = arrays[name]
    if array.dtype != np.int64 or array.shape != (count,):
      return f"{name} are {array.dtype} {list(array.shape)}, expected int64 [{count}]"
  for name, count in {"ids": clips, "texts": queries, "split": 1, "about": 1}.items():
    if len(texts[name]) != count:
      return f"{name} are {len(texts[name])}, expected {count}"
  return None


def _wrong_numbers(arrays: dict[str, np.ndarray], ids: Sequence[str]) -> str | None:
  clips = len(ids)
  for name, least in (("labels", 0), ("twins", -1)):
    wrong = np.flatnonzero((arrays[name] < least) | (arrays[name] >= clips))
    if wrong.size:
      return f"{name}[{wrong[0]}] is {arrays[name][wrong[0]]}, allowed are {least} to {clips - 1}"
  silent = sorted(set(range(clips)) - set(arrays["labels"].tolist()))
  if silent:
    return f"{len(silent)} clips have no query, first {ids[silent[0]]!r}"
  if (arrays["counts"] < 0).any():
    return f"counts are {arrays['counts'].tolist()}, expected numbers from 0"
  return None


def _about(texts: Sequence[str]) -> dict[str, Any] | None:
  try:
    found = json.loads("".join(texts))
  except (ValueError, RecursionError):
    return None
  return found if isinstance(found, dict) else None
