"""Embeds the splits of a corpus and measures retrieval on them.

`training/loop.py` calls it during training, `training/final_evaluation.py` at the end, `evaluation/run.py` without
training. Letters: V clips of the split, N queries (a clip has one or several), B batch, E embedding size.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int
from ml_collections import ConfigDict

from clipvip_jax.distributed import sharding
from clipvip_jax.distributed.termination import raise_if_requested
from clipvip_jax.distributed.watchdog import report_progress
from clipvip_jax.evaluation import retrieval
from clipvip_jax.evaluation.split_embeddings import SplitEmbeddings
from clipvip_jax.input_pipeline.batching import ClipBatcher
from clipvip_jax.input_pipeline.corpus import Corpus, SplitTexts
from clipvip_jax.input_pipeline.device_normalization import normalize
from clipvip_jax.input_pipeline.pipeline import RecordSampler, WeightedStream, iterate_batches
from clipvip_jax.input_pipeline.tokenizer import Tokenizer
from clipvip_jax.models.clip_vip import ClipVip, with_heads_sharding

# Pixels or token ids of a batch, and the index of each row in the split; -1 is padding.
InputBatch = tuple[np.ndarray, Int[np.ndarray, " b"]]
FeatureBatch = tuple[Float[Array, "b e"], Int[Array, " b"]]


@dataclasses.dataclass(frozen=True)
class SplitResult:
  """Retrieval results of a split: `metrics` as in results.json, and the similarities that they are computed from."""

  metrics: dict[str, Any]
  similarity: Float[np.ndarray, "n v"]
  embeddings: SplitEmbeddings


class Evaluator:
  """Evaluates any split of a corpus with any parameters; both towers are compiled once."""

  def __init__(self, model: ClipVip, mesh: Mesh, corpus: Corpus, tokenizer: Tokenizer, config: ConfigDict):
    """`config` has the sections model, data, evaluate and host."""
    self._mesh, self._corpus, self._tokenizer, self._config = mesh, corpus, tokenizer, config
    model = with_heads_sharding(model, sharding.heads_sharding(mesh))

    def embed_video(params, video, index):
      return model.apply({"params": params}, normalize(video), method="embed_video"), index

    def embed_text(params, ids, index):
      return model.apply({"params": params}, ids, method="embed_text"), index

    # Replicated: every process computes the metrics.
    self._embed_video, self._embed_text = (
      jax.jit(embed, out_shardings=sharding.replicated(mesh)) for embed in (embed_video, embed_text)
    )

  def evaluate(self, params: Mapping[str, Any], split: str) -> SplitResult:
    """Embeds a split and measures retrieval on it; see `measure_retrieval`."""
    return measure_retrieval(self.embeddings(params, split))

  def embeddings(self, params: Mapping[str, Any], split: str) -> SplitEmbeddings:
    """Embeds a split."""
    videos, queries = self.features(params, split)
    texts = self._texts(split)
    missing_captions = sum(not captions for captions in texts.captions) if self._config.data.caption else 0
    counts = {**self._corpus.coverage(split), "missing_captions": missing_captions}
    return SplitEmbeddings(split, videos, queries, texts.ids, texts.queries, texts.labels, texts.twins, counts)

  def features(
    self, params: Mapping[str, Any], split: str
  ) -> tuple[Float[np.ndarray, "v e"], Float[np.ndarray, "n e"]]:
    """Returns the features of the videos, ordered as the records, and of the queries, ordered as `Corpus.texts`."""
    num_clips, queries = len(self._corpus.records(split)), self._texts(split).queries
    videos = self._embed(self._embed_video, params, self._pixel_batches(split), f"clips of {split}")
    texts = self._embed(self._embed_text, params, self._id_batches(queries), f"queries of {split}")
    dim = self._config.model.embed_dim
    return scatter_rows(videos, num_clips, dim), scatter_rows(texts, len(queries), dim)

  def _texts(self, split: str) -> SplitTexts:
    return self._corpus.texts(split, self._config.evaluate.query, self._config.data.caption)

  def _pixel_batches(self, split: str) -> Iterator[InputBatch]:
    """Yields this process' shard of every batch of clips."""
    config = self._config
    clips = ClipBatcher(
      records=self._corpus.records(split),
      tokenizer=self._tokenizer,
      text_fields={},
      num_frames=config.data.num_frames,
      image_size=config.model.image_size,
      text_length=config.data.text_length,
      fast_decode=config.data.fast_decode,
      crop=config.data.crop,
      pixels=config.data.pixels,
    )
    sampler = RecordSampler(len(clips.records), config.evaluate.batch_size)
    clip_batches = iterate_batches(
      [WeightedStream(clips, sampler)],
      num_steps=sampler.steps_per_epoch,
      num_workers=config.host.num_workers,
      shard=sharding.data_shard(self._mesh),
    )
    for batch in clip_batches:
      yield batch["video"], batch["record"]

  def _id_batches(self, queries: list[str]) -> Iterator[InputBatch]:
    """Yields this process' shard of every batch of queries."""
    batch_size, (shard, num_shards) = self._config.evaluate.batch_size, sharding.data_shard(self._mesh)
    shard_size = batch_size // num_shards
    for start in range(0, len(queries), batch_size):
      index = start + shard * shard_size + np.arange(shard_size)
      texts = [queries[i] if i < len(queries) else "" for i in index]
      yield self._tokenizer(texts, self._config.data.text_length), np.where(index < len(queries), index, -1)

  def _embed(
    self, embed: Callable[..., FeatureBatch], params: Mapping[str, Any], inputs: Iterable[InputBatch], what: str
  ) -> Iterator[FeatureBatch]:
    for number, (values, index) in enumerate(inputs):
      report_progress(f"embedding the {what}, batch {number}")
      raise_if_requested()
      arrays = sharding.shard_batch(self._mesh, {"values": values, "index": index})
      yield embed(params, arrays["values"], arrays["index"])


def scatter_rows(feature_batches: Iterable[FeatureBatch], count: int, dim: int) -> Float[np.ndarray, "n e"]:
  """Collects the features of batches by the index of each row.

  Args:
    feature_batches: features and indices; rows of index -1 are padding and are dropped.
    count: N.
    dim: E.

  Returns:
    float32; rows that no batch has are NaN, which `SplitEmbeddings.similarity` refuses.
  """
  features = np.full((count, dim), np.nan, np.float32)
  for batch in feature_batches:
    rows, index = jax.device_get(batch)
    is_real = index >= 0
    features[index[is_real]] = rows[is_real]
  return features


def measure_retrieval(embeddings: SplitEmbeddings) -> SplitResult:
  """Measures retrieval in both directions, plain and with dual softmax, and the accuracy on twins.

  Every query is ranked separately; the rank of a video is that of its best query. In the metrics, `size` counts
  clips, `expected` those of the complete split and `missing` those that the corpus lacks.

  Raises:
    UserError: features are not finite; names their clips or texts.
  """
  similarity = embeddings.similarity()
  metrics = {
    "size": len(embeddings.ids),
    **embeddings.counts,
    "queries": len(embeddings.texts),
    "duplicate_queries": embeddings.duplicate_queries(),
    **retrieval.evaluate(similarity, embeddings.labels),
    "rank_histogram": retrieval.rank_histogram(retrieval.text_to_video_ranks(similarity, embeddings.labels)),
  }
  twins = retrieval.twin_accuracy(similarity, embeddings.twins, embeddings.labels)
  if twins["count"]:
    metrics["twins"] = twins
  return SplitResult(metrics, similarity, embeddings)
