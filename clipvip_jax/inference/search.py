"""Text search in a video index: ranks videos by cosine similarity to queries."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from clipvip_jax.inference.embedding_model import EmbeddingModel
from clipvip_jax.inference.video_index import VideoIndex
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import printable


@dataclasses.dataclass(frozen=True)
class Hit:
  """A video and its cosine similarity to the query."""

  video: str
  score: float


def search_index(model: EmbeddingModel, index: VideoIndex, queries: Sequence[str], top: int) -> list[list[Hit]]:
  """Returns the `top` videos of each query, best first; ties are in the order of the index.

  Raises:
    UserError: the index was built with another model or crop, or `top` is less than 1.
  """
  if top < 1:
    raise UserError(f"--top={top} must be at least 1")
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
  scores = model.embed_texts(queries) @ index.features.T
  order = np.argsort(-scores, axis=1, kind="stable")[:, :top]
  return [[Hit(index.videos[i], float(row[i])) for i in best] for row, best in zip(scores, order, strict=True)]


def format_hits(query: str, hits: Sequence[Hit]) -> str:
  """Formats a query and its hits for a terminal, one line each."""
  lines = [f"{rank:4d}  {hit.score:6.3f}  {printable(hit.video)}" for rank, hit in enumerate(hits, 1)]
  return "\n".join([printable(query), *lines])
