"""Selection of the queries that the report shows."""

import types

import numpy as np
import pytest
import simplejpeg
import tiny

from clipvip_jax.configs import common
from clipvip_jax.evaluation import evaluator, retrieval
from clipvip_jax.evaluation.split_embeddings import SplitEmbeddings
from clipvip_jax.reporting import query_examples, report
from clipvip_jax.reporting.report_inputs import Examples


def unit_features(rng, count, size=8):
  features = rng.normal(size=(count, size)).astype(np.float32)
  return features / np.linalg.norm(features, axis=1, keepdims=True)


def choose_queries_with_loops(similarity, labels, count):
  """Reference implementation."""
  ranks = retrieval.text_to_video_ranks(similarity, labels).tolist()
  wrong = [[x for j, x in enumerate(row) if j != label] for row, label in zip(similarity.tolist(), labels, strict=True)]
  margins = [
    row[label] - max(others, default=-np.inf) for row, label, others in zip(similarity, labels, wrong, strict=True)
  ]
  queries = set(range(len(labels)))
  count = min(count, len(queries))
  best = sorted(queries, key=lambda i: (ranks[i], -margins[i], i))[: (count + 2) // 3]
  worst = sorted(queries - set(best), key=lambda i: (-ranks[i], i))[: (count - len(best) + 1) // 2]
  return best, worst, sorted(queries - set(best) - set(worst))


def test_choice_equals_reference_loops():
  for seed in range(200):
    rng = np.random.default_rng(seed)
    videos = int(rng.integers(1, 9))
    labels = np.repeat(np.arange(videos), rng.integers(1, 4, videos))
    similarity = rng.integers(-3, 4, (len(labels), videos)) / 4  # full of ties
    count = int(rng.integers(0, 15))
    chosen = query_examples.choose_queries(similarity, labels, count)
    assert len(chosen) == min(count, len(labels)) == len({query for _, query in chosen}), "a query is chosen twice"
    best, worst, rest = choose_queries_with_loops(similarity, labels, count)
    kinds = {kind: [query for name, query in chosen if name == kind] for kind in ("best", "worst", "typical")}
    assert kinds["best"] == best and kinds["worst"] == worst
    assert kinds["typical"] == sorted(kinds["typical"]) and set(kinds["typical"]) <= set(rest)
    assert abs(len(best) - len(worst)) <= 1 and abs(len(worst) - len(kinds["typical"])) <= 1


def test_twelve_queries_are_four_of_each_kind_and_typical_ones_span_the_split():
  similarity = np.eye(100) + np.random.default_rng(0).normal(size=(100, 100)) / 10
  chosen = query_examples.choose_queries(similarity, range(100), 12)
  assert [kind for kind, _ in chosen] == ["best"] * 4 + ["worst"] * 4 + ["typical"] * 4
  typical = [query for kind, query in chosen if kind == "typical"]
  assert typical[0] < 10 and typical[3] > 90 and min(np.diff(typical)) > 20


@pytest.fixture(scope="module")
def examples_and_result(golden):
  """Examples of a split of 9 clips with one to three queries each, and the result of the split."""
  rng = np.random.default_rng(0)
  labels = [i for i in range(9) for _ in range(1 + i % 3)]
  queries, videos = unit_features(rng, len(labels)), unit_features(rng, 9)
  ids, texts = [f"clip{i}" for i in range(9)], [f"query{i}" for i in range(len(labels))]
  counts = {"expected": 9, "missing": 0, "missing_captions": 0}
  result = evaluator.measure_retrieval(SplitEmbeddings("test", videos, queries, ids, texts, labels, [-1] * 9, counts))
  frames = [[simplejpeg.encode_jpeg(rng.integers(0, 256, (24, 32, 3), np.uint8)) for _ in range(8)] for _ in range(9)]
  records = [{"id": name, "frames": jpegs} for name, jpegs in zip(ids, frames, strict=True)]
  config = common.base()
  config.model = tiny.config()
  config.data.num_frames = 4
  config.evaluate.num_examples = 12
  net = tiny.model()
  corpus = types.SimpleNamespace(records=lambda split: {"test": records}[split])
  return query_examples.report_examples(net, tiny.params(golden), corpus, result, config), result


def test_each_query_has_its_five_best_videos_and_the_matching_one(examples_and_result):
  examples, result = examples_and_result
  labels = result.embeddings.labels
  ranks = retrieval.text_to_video_ranks(result.similarity, labels)
  assert len(examples.queries) == 12 and ranks.max() > 5
  for example in examples.queries:
    query = int(example.query.removeprefix("query"))
    assert example.split == "test" and example.rank == ranks[query]
    matches = [video for video in example.videos if video.is_match]
    assert [(video.id, video.rank) for video in matches] == [(f"clip{labels[query]}", ranks[query])]
    assert [video.rank for video in example.videos] == [*range(1, 6), *([ranks[query]] if ranks[query] > 5 else [])]
    scores = [video.score for video in example.videos]
    assert scores == sorted(scores, reverse=True)
    assert all(len(video.frames) == 6 for video in example.videos)


def test_matching_video_comes_last_among_ties():
  similarity = np.zeros((7, 7), np.float32)
  embeddings = types.SimpleNamespace(split="test", ids=list("abcdefg"), texts=list("abcdefg"), labels=list(range(7)))
  result = types.SimpleNamespace(similarity=similarity, embeddings=embeddings)
  example = query_examples.query_example([{"frames": [b"jpeg"]}] * 7, result, "worst", 2)
  assert example.rank == 7 and [video.id for video in example.videos] == [*"abdef", "c"]


def test_attention_maps_are_of_the_best_queries_videos(examples_and_result, tmp_path):
  examples, result = examples_and_result
  best = [example for example in examples.queries if example.kind == "best"]
  right = dict.fromkeys(f"clip{result.embeddings.labels[int(example.query[5:])]}" for example in best)
  assert [entry.id for entry in examples.attention] == list(right)[:3]
  report.write_report(tmp_path / "report.html", {"splits": {"test": result.metrics}}, examples=examples)
  page = (tmp_path / "report.html").read_text()
  assert "Attention of the proxies" in page and "Rank of the matching video" in page


def test_no_examples_when_none_are_requested(examples_and_result):
  config = common.base()
  config.evaluate.num_examples = 0
  corpus = types.SimpleNamespace(records=lambda split: [])
  assert query_examples.report_examples(None, None, corpus, examples_and_result[1], config) == Examples([], [])
