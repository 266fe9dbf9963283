"""Approximate nearest neighbours for indexes of many millions of videos, by usearch (HNSW).

The graph is in FILE.usearch beside the index FILE, and maps into memory. FILE.usearch.json, written last, names the
index that it was built from and its own digest. Its candidates are scored exactly, so that scores equal those of an
exact search; a video may be missing from the results.

Letters: Q queries, N rows, E embedding size.
"""

import importlib.util
import json
import pathlib
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from clipvip_jax.inference import feature_file, nearest_rows
from clipvip_jax.inference.video_index import VideoIndex
from clipvip_jax.utils import atomic_write, config_tree
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.file_digests import digest_files
from clipvip_jax.utils.log import log
from clipvip_jax.utils.progress import ProgressReporter
from clipvip_jax.weights.mmap_file import iterate_blocks

if TYPE_CHECKING:
  from usearch.index import Index

_CANDIDATES = 4  # that are scored exactly, for each result
_MIN_CANDIDATES = 64
_CONNECTIVITY = 32  # neighbours of a row in the graph
_EXPANSION = 200  # rows that are compared when one is added
_ADDED = 2**14  # rows per call
_DTYPE = "f16"  # of the graph's copy of the features; scores are computed from the index


def require_usearch() -> None:
  """Raises UserError if usearch is not installed."""
  if importlib.util.find_spec("usearch") is None:
    raise UserError("--approximate needs usearch, which is not installed: pip install 'clipvip_jax[usearch]'")


class ApproximateIndex:
  """Graph over the features of an index."""

  def __init__(self, graph: "Index", features: Float[np.ndarray, "n e"]):
    """Takes a graph whose keys are the rows of `features`."""
    self._graph, self._features = graph, features

  def find_nearest(self, queries: Float[np.ndarray, "q e"], top: int) -> list[list[tuple[int, float]]]:
    """Returns (row, inner product) of about the `top` best rows of each query, as `nearest_rows.find_nearest` does."""
    count = min(max(_CANDIDATES * top, _MIN_CANDIDATES), len(self._features))
    if count == len(self._features):  # the graph may not reach all rows, and refuses to search none
      return nearest_rows.find_nearest(queries, self._features, top)
    keys = (self._graph.search(query, count).keys for query in queries)
    return [
      nearest_rows.rank_rows(query, self._features, np.sort(rows.astype(np.int64)), top)
      for query, rows in zip(queries, keys, strict=True)
    ]


def graph_names(path: pathlib.PurePath) -> tuple[str, str]:
  """Returns the names of the graph and of its description, beside the file of an index."""
  return f"{path.name}.usearch", f"{path.name}.usearch.json"


def open_graph(path: pathlib.Path, index: VideoIndex) -> ApproximateIndex:
  """Opens the graph of an index, which is built first if there is none.

  Args:
    path: of the index file.
    index: what it contains.

  Raises:
    UserError: usearch is not installed, or the graph is corrupt, of another index, or cannot be written.
  """
  require_usearch()
  from usearch.index import Index

  graph_path, description = (path.with_name(name) for name in graph_names(path))
  expected = {"index": feature_file.read_digest(path), "rows": len(index.features), "size": index.features.shape[1]}
  if not description.exists():
    _build(graph_path, description, index.features, expected)
  _check(graph_path, description, expected)
  try:
    graph = Index.restore(graph_path, view=True, expansion_search=_EXPANSION)
  except Exception as error:  # of the library, for another version of its format
    raise UserError(f"{graph_path} cannot be read ({error}); delete {description} to build it again") from error
  if graph is None or (len(graph), graph.ndim) != (expected["rows"], expected["size"]):
    raise UserError(f"{graph_path} has other rows than its index; delete {description} to build it again")
  return ApproximateIndex(graph, index.features)


def _check(graph_path: pathlib.Path, description: pathlib.Path, expected: dict[str, Any]) -> None:
  """Raises UserError if the graph is not of the index, or does not match its digest."""
  try:
    recorded = dict(json.loads(description.read_text(encoding="utf-8")))
    digest = digest_files([graph_path])[0]
  except (OSError, ValueError, TypeError, RecursionError) as error:
    reason = getattr(error, "strerror", None) or error
    raise UserError(f"{graph_path} cannot be read ({reason}); delete {description} to build it again") from error
  if recorded.pop("digest", None) != digest:
    raise UserError(f"{graph_path} is corrupt: it does not match its digest; delete {description} to build it again")
  if recorded != expected:
    raise UserError(f"{graph_path} was built from another index; delete {description} to build it again")


def _build(
  graph_path: pathlib.Path, description: pathlib.Path, features: Float[np.ndarray, "n e"], expected: dict[str, Any]
) -> None:
  from usearch.index import Index

  log.info("building %s of %d rows", graph_path, len(features))
  graph = Index(ndim=features.shape[1], metric="ip", dtype=_DTYPE, connectivity=_CONNECTIVITY, expansion_add=_EXPANSION)
  progress = ProgressReporter(len(features), "rows")
  for block in iterate_blocks(features):
    for start in range(0, len(block), _ADDED):
      rows = block[start : start + _ADDED]
      graph.add(np.arange(len(graph), len(graph) + len(rows), dtype=np.uint64), rows)
      progress.update(len(graph))
  try:
    with atomic_write.atomic_path(graph_path) as temporary:
      graph.save(temporary)
    config_tree.write_json(description, {**expected, "digest": digest_files([graph_path])[0]})
  except (OSError, RuntimeError) as error:  # the library raises the latter
    raise UserError(f"{graph_path} cannot be written ({error}); free space, or copy the index elsewhere") from error
