"""Evaluation of a built miniature by the protocol of its recipe, with made-up features, against plain loops."""

import zlib

import numpy as np
from ml_collections import ConfigDict
from retrieval_oracle import slow_directions

from clipvip_jax.evaluation import evaluator
from clipvip_jax.evaluation.evaluation_config import EvaluationOptions, evaluation_config
from clipvip_jax.evaluation.split_embeddings import SplitEmbeddings
from clipvip_jax.input_pipeline.open_corpus import open_corpus
from clipvip_jax.weights.sources import Weights

_SIZES = {"patch_size": 32, "text": {"positions": 77, "vocab_size": 49408}}


def check_evaluation(builder, captions, directions):
  """Compares the evaluation of the corpus that the recipe configures with plain loops.

  Args:
    builder: of the built corpus.
    captions: {split that is evaluated: {clip: its texts}}, as the owner's files have them.
    directions: those that the protocol measures.
  """
  corpus_name = "/".join(builder.info.full_name.split("/")[:2])
  weights = Weights("w", {}, ConfigDict(_SIZES), False, None)
  config = evaluation_config(weights, EvaluationOptions(corpus_name, data_dir=str(builder.data_dir_root)))
  corpus = open_corpus(config.data, "")
  assert set(captions) == set(config.evaluate.final_splits)
  for split, expected in captions.items():
    corpus.check_queries(split, config.evaluate.query, config.data.caption, config.evaluate.protocol)
    texts = corpus.texts(split, config.evaluate.query, config.data.caption)
    videos, queries = _features(texts.ids, 0.7), _features(texts.queries, 1.0)
    counts = {**corpus.coverage(split), "missing_captions": 0}
    embeddings = SplitEmbeddings(split, videos, queries, texts.ids, texts.queries, texts.labels, texts.twins, counts)
    metrics = evaluator.measure_retrieval(embeddings).metrics
    labels = [number for number, clip_texts in enumerate(expected.values()) for _ in clip_texts]
    own_queries = _features([text for clip_texts in expected.values() for text in clip_texts], 1.0)
    similarity = [[float(query @ video) for video in _features(expected, 0.7)] for query in own_queries]
    assert metrics["plain"] == slow_directions(similarity, labels)
    assert set(metrics["plain"]) == set(directions)
    assert (metrics["size"], metrics["queries"]) == (len(expected), len(labels))


def _features(names, weight):
  """Unit vectors: a common one, and one of each name's own."""
  rngs = [np.random.default_rng(zlib.crc32(name.encode())) for name in names]
  rows = np.stack([1 - weight + weight * rng.normal(size=6) for rng in rngs])
  return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
