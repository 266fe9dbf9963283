"""Embeds a split and measures retrieval on it.

Letters: N clips of the split, each with one query; B batch, E embedding size.
"""

import dataclasses
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float

from clipvip_jax import retrieval, sharding
from clipvip_jax.input_pipeline.corpus import Corpus, Texts
from clipvip_jax.input_pipeline.frames import uniform_frames
from clipvip_jax.input_pipeline.pipeline import Clips, Order, batches
from clipvip_jax.input_pipeline.tokenizer import Tokenizer
from clipvip_jax.models.clip_vip import ClipVip

# In the report: how many of the best videos a query shows, and how many frames of each.
_TOP, _STRIP = 5, 6


@dataclasses.dataclass(frozen=True)
class SplitResult:
  """`metrics` as results.json holds them, and similarity [N queries, N videos]."""

  metrics: dict[str, Any]
  similarity: Float[np.ndarray, "n n"]


class Evaluator:
  """Measures any split of a corpus with any parameters; compiled once."""

  def __init__(self, model: ClipVip, mesh: Mesh, corpus: Corpus, tokenizer: Tokenizer, config: Any):
    """`config`: the whole configuration."""
    self._mesh, self._corpus, self._tokenizer, self._config = mesh, corpus, tokenizer, config
    everywhere = sharding.on_every_device(mesh)

    def embed(params, batch):
      apply = {"params": params}
      video = model.apply(apply, batch["video"], method="embed_video")
      return video, model.apply(apply, batch["query"], method="embed_text"), batch["record"]

    # Every process gets the whole result, so that each can rank.
    self._embed = jax.jit(embed, out_shardings=everywhere)

  def _texts(self, split: str) -> Texts:
    return self._corpus.texts(split, self._config.evaluate.query, self._config.data.caption)

  def features(self, params: Any, split: str) -> tuple[Float[np.ndarray, "n e"], Float[np.ndarray, "n e"]]:
    """(videos, queries) of a split in the records' order.

    The last batch's padding carries record -1 and goes nowhere; a record that no batch held would stay NaN, which
    `retrieval` refuses.
    """
    config = self._config
    clips = Clips(
      source=self._corpus.source(split),
      tokenizer=self._tokenizer,
      texts={"query": config.evaluate.query},
      num_frames=config.data.num_frames,
      image_size=config.model.image_size,
      text_length=config.data.text_length,
    )
    order = Order(len(clips.source), config.evaluate.batch_size)
    found = batches(
      clips,
      order,
      num_steps=order.steps_per_epoch,
      num_workers=config.host.num_workers,
      process=(jax.process_index(), jax.process_count()),
    )
    dim = config.model.embed_dim
    videos, queries = (np.full((order.num_records, dim), np.nan, np.float32) for _ in range(2))
    for batch in found:
      arrays = sharding.shard_batch(self._mesh, {key: batch[key] for key in ("video", "query", "record")})
      video, query, record = map(np.asarray, self._embed(params, arrays))
      real = record >= 0
      videos[record[real]], queries[record[real]] = video[real], query[real]
    return videos, queries

  def split(self, params: Any, split: str) -> SplitResult:
    """Retrieval metrics of a split: both directions, plain and with dual softmax, and the twins."""
    videos, queries = self.features(params, split)
    similarity = queries @ videos.T
    texts = self._texts(split)
    metrics = {
      "size": len(texts.ids),
      "missing_captions": sum(not caption.strip() for caption in texts.captions),
      **retrieval.evaluate(similarity),
    }
    if any(twin >= 0 for twin in texts.twins):
      metrics["twins"] = retrieval.twin_accuracy(similarity, np.array(texts.twins))
    return SplitResult(metrics, similarity)

  def examples(self, split: str, similarity: Float[np.ndarray, "n n"], count: int) -> list[dict[str, Any]]:
    """Some queries, spread evenly over the split, with the frames of their best videos: see `report.write_report`."""
    texts = self._texts(split)
    ranks = retrieval.text_to_video_ranks(similarity)
    chosen = np.unique(np.linspace(0, len(texts.ids) - 1, count).astype(int))
    return [
      {
        "split": split,
        "query": texts.queries[i],
        "rank": int(ranks[i]),
        "top": [
          {
            "id": texts.ids[j],
            "score": float(similarity[i, j]),
            "right": bool(i == j),
            "frames": self._strip(split, j),
          }
          for j in np.argsort(-similarity[i], kind="stable")[:_TOP]
        ],
      }
      for i in chosen
    ]

  def _strip(self, split: str, index: int) -> list[bytes]:
    frames = self._corpus.source(split)[int(index)]["frames"]
    return [bytes(frames[i]) for i in uniform_frames(len(frames), min(_STRIP, len(frames)))]
