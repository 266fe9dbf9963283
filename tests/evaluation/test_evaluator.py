"""Evaluation of a split whose clips have several queries and of which some are missing."""

import dataclasses

import jax
import numpy as np
import pytest
import simplejpeg
import tensorflow_datasets as tfds
import tiny
import written_corpus

from clipvip_jax.configs import common
from clipvip_jax.distributed import sharding
from clipvip_jax.evaluation import retrieval
from clipvip_jax.evaluation.evaluator import Evaluator, measure_retrieval, scatter_rows
from clipvip_jax.input_pipeline.corpus import Corpus
from clipvip_jax.input_pipeline.word_tokenizer import WordTokenizer
from clipvip_jax.reporting import report, results_table
from clipvip_jax.utils.errors import UserError

COVERAGE = {"train": {"expected": 13, "found": 11, "missing": 2, "undecodable": 0, "too_short": 0}}
QUERIES = [[f"word{i} word{j}" for j in range(1 + i % 3)] for i in range(11)]


def records():
  rng = np.random.default_rng(0)
  for i, queries in enumerate(QUERIES):
    frames = [simplejpeg.encode_jpeg(rng.integers(0, 256, (32, 32, 3), np.uint8)) for _ in range(3)]
    yield {"id": f"clip{i}", "frames": frames, "description": queries, "caption": "seen" if i else ""}


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
  """(evaluator, parameters, result, model, tokenizer)."""
  folder = written_corpus.write(tmp_path_factory.mktemp("data"), records(), metadata={"coverage": COVERAGE})
  config = common.base()
  config.model = tiny.config()
  config.data.update({"num_frames": 2, "text_length": 8})
  config.evaluate.batch_size = 8  # neither 11 clips nor 21 queries are a multiple
  config.host.num_workers = 0
  tokenizer = WordTokenizer.train([query for queries in QUERIES for query in queries], 100)
  net = tiny.model()
  params = tiny.random_params(net)
  evaluator = Evaluator(net, sharding.make_mesh(), Corpus(tfds.builder_from_directory(folder)), tokenizer, config)
  return evaluator, params, evaluator.evaluate(params, "train"), net, tokenizer


@pytest.mark.slow
def test_every_query_is_ranked_separately_and_a_video_by_its_best(evaluated):
  evaluator, params, result, net, tokenizer = evaluated
  labels = [i for i, queries in enumerate(QUERIES) for _ in queries]
  videos, queries = evaluator.features(params, "train")
  assert videos.shape == (11, 32) and queries.shape == (len(labels), 32)
  ids = tokenizer([query for clip_queries in QUERIES for query in clip_queries], 8)
  expected = jax.jit(lambda x: net.apply({"params": params}, x, method="embed_text"))(ids)
  np.testing.assert_allclose(queries, expected, atol=1e-6)
  assert {name: result.metrics[name] for name in ("plain", "dsl")} == retrieval.evaluate(queries @ videos.T, labels)
  assert "video_to_text_grouped" in result.metrics["plain"]


@pytest.mark.parametrize("count", range(1, 18))
def test_padding_of_the_last_batch_is_dropped(count):
  """Padding has features that would win every comparison."""
  index = [np.arange(start, start + 8) for start in range(0, count, 8)]
  padded = ((np.repeat(np.where(i < count, i, 10**6)[:, None], 4, 1), np.where(i < count, i, -1)) for i in index)
  features = scatter_rows(padded, count, 4)
  np.testing.assert_array_equal(features, np.repeat(np.arange(count)[:, None], 4, axis=1))


def test_rows_that_no_batch_has_are_nan():
  features = scatter_rows([(np.ones((2, 3)), np.array([2, 0]))], 3, 3)
  np.testing.assert_array_equal(np.isnan(features[:, 0]), [False, True, False])


def test_clip_without_finite_features_is_named(evaluated):
  embeddings = dataclasses.replace(evaluated[2].embeddings, videos=evaluated[2].embeddings.videos.copy())
  embeddings.videos[3] = np.nan
  with pytest.raises(UserError, match=r"split train: the features of 1 of 11 are not finite, those of clip 'clip3'"):
    measure_retrieval(embeddings)


def test_clips_with_equal_captions_and_features_tie_and_rank_second(evaluated):
  before = evaluated[2].embeddings
  alike = dataclasses.replace(
    before,
    videos=before.videos[[0, 0, 2]],
    queries=before.videos[[0, 0, 2]],
    ids=["a", "b", "c"],
    texts=["a cat", "A cat", "a dog"],
    labels=[0, 1, 2],
    twins=[-1] * 3,
  )
  metrics = measure_retrieval(alike).metrics
  assert metrics["duplicate_queries"] == 2 and metrics["queries"] == 3
  for kind in ("plain", "dsl"):
    for direction in ("text_to_video", "video_to_text"):
      assert (metrics[kind][direction]["R@1"], metrics[kind][direction]["mean_rank"]) == (1 / 3, 1 + 2 / 3)


@pytest.mark.parametrize(("labels", "count"), [([2, 3], None), ([0, 2], 1), ([0, 1], 2)])
def test_twins_are_measured_only_where_a_query_has_one(evaluated, labels, count):
  before = evaluated[2].embeddings
  pair = dataclasses.replace(
    before,
    videos=before.videos[:4],
    queries=before.videos[:2],
    ids=["a", "b", "c", "d"],
    texts=["a cat", "a dog"],
    labels=labels,
    twins=[1, 0, -1, -1],
  )
  metrics = measure_retrieval(pair).metrics
  assert metrics.get("twins", {}).get("count") == count
  assert ("twin accuracy" in results_table.format_split("test", metrics)) == bool(count)


def test_metrics_and_report_count_missing_clips(evaluated, tmp_path):
  metrics = evaluated[2].metrics
  numbers = {name: metrics[name] for name in ("size", "expected", "missing", "queries", "missing_captions")}
  assert numbers == {"size": 11, "expected": 13, "missing": 2, "queries": 21, "missing_captions": 1}
  report.write_report(tmp_path / "report.html", {"splits": {"train": metrics}})
  page = (tmp_path / "report.html").read_text()
  assert "11 of 13 clips, 2 missing" in page and "21 queries" in page
  assert results_table.format_coverage({"size": 1000}) == "1,000 clips"
