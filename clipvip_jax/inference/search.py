"""Text search in a video index: ranks videos by cosine similarity to queries."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool

from clipvip_jax.inference import nearest_rows
from clipvip_jax.inference.approximate_index import ApproximateIndex
from clipvip_jax.inference.embedding_model import EmbeddingModel
from clipvip_jax.inference.video_index import VideoIndex
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import printable


@dataclasses.dataclass(frozen=True)
class Hit:
  """A video, or a moment of it, and its cosine similarity to the query.

  Attributes:
    video: its path.
    score: the cosine similarity.
    start: of the moment in seconds; None: start of the video.
    end: of the moment in seconds; None: end of the video.
    row: of the index.
  """

  video: str
  score: float
  start: float | None = None
  end: float | None = None
  row: int = dataclasses.field(default=-1, compare=False)


def search_index(
  model: EmbeddingModel,
  index: VideoIndex,
  queries: Sequence[str],
  top: int,
  selected: Bool[np.ndarray, " n"] | None = None,
  graph: ApproximateIndex | None = None,
) -> list[list[Hit]]:
  """Returns the `top` videos of each query, best first; ties are in the order of the index.

  Args:
    model: that the index was built with.
    index: see `video_index.read_index`.
    queries: one text per query.
    top: at least 1.
    selected: rows of the index to search, see `filters`; None: all.
    graph: of the index, for an approximate search. A search of selected rows is exact.

  Raises:
    UserError: the index was built with another model or crop, or `top` is less than 1.
  """
  if top < 1:
    raise UserError(f"--top={top} must be at least 1")
  check_model(model, index)
  features = model.embed_texts(queries)
  if graph is not None and selected is None:
    nearest = graph.find_nearest(features, top)
  else:
    nearest = nearest_rows.find_nearest(features, index.features, top, selected)
  return [[_hit(index, row, score) for row, score in rows] for rows in nearest]


def _hit(index: VideoIndex, row: int, score: float) -> Hit:
  clip = index.clip(row)
  return Hit(clip.path, score, clip.start, clip.end, row)


def check_model(model: EmbeddingModel, index: VideoIndex) -> None:
  """Raises UserError if the index was built with another model or crop."""
  if model.config.data.crop != index.crop:
    raise UserError(
      f"the index was built with crop={index.crop!r}, {model.source!r} is loaded with {model.config.data.crop!r}; load"
      f" it with crop={index.crop!r}, or build the index again"
    )
  if model.identity != index.identity:
    raise UserError(
      f"the index was built with other weights or another number of frames than {model.source!r} has; name its model"
      " with --model, or build the index again with python -m clipvip_jax.embed"
    )
  index_dim, model_dim = index.features.shape[1], model.config.model.embed_dim
  if index_dim != model_dim:
    raise UserError(
      f"the index has features of size {index_dim}, the model {model_dim}; build the index again with"
      " python -m clipvip_jax.embed"
    )


def format_moment(hit: Hit) -> str:
  """Returns `1:05 to 1:15` for a moment of a video, "" for a complete one."""
  if hit.start is None and hit.end is None:
    return ""
  return f"{_format_time(hit.start or 0)} to {'the end' if hit.end is None else _format_time(hit.end)}"


def _format_time(seconds: float) -> str:
  minutes, seconds = divmod(round(seconds, 2), 60)
  hours, minutes = divmod(int(minutes), 60)
  text = f"{seconds:05.2f}".rstrip("0").rstrip(".")
  return f"{hours}:{minutes:02d}:{text}" if hours else f"{minutes}:{text}"


def format_hits(query: str, hits: Sequence[Hit]) -> str:
  """Formats a query and its hits for a terminal, one line each."""
  lines = [
    f"{rank:4d}  {hit.score:6.3f}  {printable(hit.video)}  {format_moment(hit)}".rstrip()
    for rank, hit in enumerate(hits, 1)
  ]
  return "\n".join([printable(query), *lines])
