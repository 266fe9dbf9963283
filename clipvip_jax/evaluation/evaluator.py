"""Embeds a split and measures retrieval on it.

Letters: V clips of the split, N queries, of which a clip has one or several; B batch, E embedding size.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float

from clipvip_jax.distributed import sharding
from clipvip_jax.distributed.watchdog import report_progress
from clipvip_jax.evaluation import retrieval
from clipvip_jax.evaluation.split_embeddings import SplitEmbeddings
from clipvip_jax.input_pipeline.batching import ClipBatcher
from clipvip_jax.input_pipeline.corpus import Corpus, Texts
from clipvip_jax.input_pipeline.pipeline import RecordSampler, WeightedStream, batches
from clipvip_jax.input_pipeline.tokenizer import Tokenizer
from clipvip_jax.models.clip_vip import ClipVip


@dataclasses.dataclass(frozen=True)
class SplitResult:
  """`metrics` as results.json holds them, similarity [N queries, V videos], and what both were measured on."""

  metrics: dict[str, Any]
  similarity: Float[np.ndarray, "n v"]
  embeddings: SplitEmbeddings


class Evaluator:
  """Measures any split of a corpus with any parameters; compiled once."""

  def __init__(self, model: ClipVip, mesh: Mesh, corpus: Corpus, tokenizer: Tokenizer, config: Any):
    """`config`: the whole configuration."""
    self._mesh, self._corpus, self._tokenizer, self._config = mesh, corpus, tokenizer, config
    everywhere = sharding.replicated(mesh)

    def embed(method):
      def apply(params, pixels_or_ids, index):
        return model.apply({"params": params}, pixels_or_ids, method=method), index

      # Every process gets the whole result, so that each can rank.
      return jax.jit(apply, out_shardings=everywhere)

    self._embed_video, self._embed_text = embed("embed_video"), embed("embed_text")

  def _texts(self, split: str) -> Texts:
    return self._corpus.texts(split, self._config.evaluate.query, self._config.data.caption)

  def features(self, params: Any, split: str) -> tuple[Float[np.ndarray, "v e"], Float[np.ndarray, "n e"]]:
    """(videos in the records' order, queries in that of `Corpus.texts`) of a split."""
    config = self._config
    clips = ClipBatcher(
      source=self._corpus.source(split),
      tokenizer=self._tokenizer,
      texts={},
      num_frames=config.data.num_frames,
      image_size=config.model.image_size,
      text_length=config.data.text_length,
      fast_decode=config.data.fast_decode,
    )
    order = RecordSampler(len(clips.source), config.evaluate.batch_size)
    found = batches(
      [WeightedStream(clips, order)],
      num_steps=order.steps_per_epoch,
      num_workers=config.host.num_workers,
      share=sharding.data_shard(self._mesh),
    )
    pixels = ((batch["video"], batch["record"]) for batch in found)
    queries = self._texts(split).queries
    return (
      self._collect(self._embed_video, params, pixels, order.num_records, f"the clips of {split}"),
      self._collect(self._embed_text, params, self._ids(queries), len(queries), f"the queries of {split}"),
    )

  def _ids(self, queries: list[str]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """This process' share of every batch of queries: ids, and which queries they are; -1 is padding."""
    size, (share, count) = self._config.evaluate.batch_size, sharding.data_shard(self._mesh)
    for start in range(0, len(queries), size):
      index = start + share * (size // count) + np.arange(size // count)
      texts = [queries[i] if i < len(queries) else "" for i in index]
      yield self._tokenizer(texts, self._config.data.text_length), np.where(index < len(queries), index, -1)

  def _collect(
    self, embed: Callable, params: Any, found: Iterable[tuple[np.ndarray, np.ndarray]], count: int, what: str
  ) -> Float[np.ndarray, "n e"]:
    """The features of batches of (pixels or ids, index), by index.

    Padding carries index -1 and goes nowhere; a row that no batch held would stay NaN, which `retrieval` refuses.
    """
    features = np.full((count, self._config.model.embed_dim), np.nan, np.float32)
    for batch, (values, index) in enumerate(found):
      report_progress(f"embedding {what}, batch {batch}")
      arrays = sharding.shard_batch(self._mesh, {"values": values, "index": index})
      rows, places = map(np.asarray, embed(params, arrays["values"], arrays["index"]))
      real = places >= 0
      features[places[real]] = rows[real]
    return features

  def embeddings(self, params: Any, split: str) -> SplitEmbeddings:
    """The features of a split, with its texts."""
    videos, queries = self.features(params, split)
    texts = self._texts(split)
    silent = sum(not captions for captions in texts.captions) if self._config.data.caption else 0
    counts = {**self._corpus.coverage(split), "missing_captions": silent}
    return SplitEmbeddings(split, videos, queries, texts.ids, texts.queries, texts.labels, texts.twins, counts)

  def split(self, params: Any, split: str) -> SplitResult:
    """Retrieval metrics of a split: see `measure_retrieval`."""
    return measure_retrieval(self.embeddings(params, split))


def measure_retrieval(found: SplitEmbeddings) -> SplitResult:
  """Retrieval metrics: both directions, plain and with dual softmax, and the twins.

  Every query is asked on its own; a video is answered by the best of its own. `size` counts the clips, `expected`
  those that the split should hold, and `missing` those that it does not.

  Raises:
    UserError: features that are not finite; names their clips or texts.
  """
  similarity = found.similarity()
  metrics = {
    "size": len(found.ids),
    **found.counts,
    "queries": len(found.texts),
    "duplicate_queries": found.duplicate_queries(),
    **retrieval.evaluate(similarity, found.labels),
    "rank_histogram": retrieval.rank_histogram(retrieval.text_to_video_ranks(similarity, found.labels)),
  }
  if any(twin >= 0 for twin in found.twins):
    metrics["twins"] = retrieval.twin_accuracy(similarity, found.twins, found.labels)
  return SplitResult(metrics, similarity, found)
