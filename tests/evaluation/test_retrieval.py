"""Retrieval metrics: the reference numbers, plain loops as the oracle, ties, and invalid input."""

import fractions
import math

import numpy as np
import pytest
from numeric import assert_close
from retrieval_oracle import METRICS, slow_directions, slow_grouped_ranks, slow_text_ranks, slow_video_ranks

from clipvip_jax.evaluation import retrieval
from clipvip_jax.utils.errors import UserError


def as_row(metrics):
  assert tuple(metrics) == METRICS
  return list(metrics.values())


def test_every_reference_metric(golden):
  reference = golden("metrics.npz")
  names = [name for name in reference if not name.endswith(("similarity", "labels"))]
  assert len(names) == 17
  for name in names:
    case, measured = name.split("/")
    kind, direction = ("dsl", measured[4:]) if measured.startswith("dsl_") else ("plain", measured)
    metrics = retrieval.evaluate(reference[f"{case}/similarity"], reference.get(f"{case}/labels"))
    direction = {"t2v": "text_to_video", "v2t": "video_to_text"}[direction]
    assert as_row(metrics[kind][direction]) == reference[name].tolist(), name


def slow_dual_softmax(similarity):
  """In exact fractions but for each weight, so that columns which hold the same numbers have the same sum."""
  columns = list(zip(*similarity, strict=True))
  weights = [[fractions.Fraction(math.exp(100 * (score - max(column)))) for score in column] for column in columns]
  return [[score * weights[j][i] / sum(weights[j]) for j, score in enumerate(row)] for i, row in enumerate(similarity)]


def tied_matrix(seed, captions):
  """(similarity, labels, labels as a list), seven different scores."""
  rng = np.random.default_rng([seed, len(captions)])
  videos = int(rng.integers(1, 12))
  texts = videos if captions == "one" else int(rng.integers(1, 30))
  labels = None if captions == "one" else rng.integers(0, videos, texts)
  similarity = rng.integers(-3, 4, (texts, videos)).astype(np.float32) / 4
  return similarity, labels, list(range(texts)) if labels is None else labels.tolist()


@pytest.mark.parametrize("captions", ["one", "several"])
def test_agrees_with_plain_loops_on_matrices_full_of_ties(captions):
  for seed in range(200):
    similarity, labels, right = tied_matrix(seed, captions)
    loops = similarity.tolist()
    assert retrieval.text_to_video_ranks(similarity, labels).tolist() == slow_text_ranks(loops, right)
    assert retrieval.video_to_text_ranks(similarity, labels).tolist() == slow_video_ranks(loops, right)
    assert retrieval.video_to_text_grouped_ranks(similarity, labels).tolist() == slow_grouped_ranks(loops, right)
    assert retrieval.evaluate(similarity, labels)["plain"] == slow_directions(loops, right)


@pytest.mark.parametrize("captions", ["one", "several"])
def test_dual_softmax_agrees_with_plain_loops_on_matrices_full_of_ties(captions):
  for seed in range(200):
    similarity, labels, right = tied_matrix(seed, captions)
    loops = slow_dual_softmax(similarity.tolist())
    assert_close(retrieval.dual_softmax(similarity), np.array(loops, np.float64), 1e-12)
    assert retrieval.evaluate(similarity, labels)["dsl"] == slow_directions(loops, right), seed


def test_ties_rank_last():
  assert retrieval.text_to_video_ranks(np.zeros((4, 4))).tolist() == [4, 4, 4, 4]
  assert retrieval.video_to_text_ranks(np.zeros((4, 4))).tolist() == [4, 4, 4, 4]


def test_captions_of_one_video_do_not_compete():
  similarity = np.array([[0.9, 0.0], [0.9, 0.0], [0.1, 0.5]])
  assert retrieval.video_to_text_ranks(similarity, [0, 0, 1]).tolist() == [1, 1]


def test_video_without_caption_is_only_a_distractor():
  similarity = np.array([[0.5, 0.9, 0.1], [0.0, 0.2, 0.7]])
  assert retrieval.text_to_video_ranks(similarity, [0, 2]).tolist() == [2, 1]
  assert retrieval.video_to_text_ranks(similarity, [0, 2]).tolist() == [1, 1]


def test_captions_of_another_video_compete_once_in_the_grouped_protocol():
  similarity = np.array([[0.5, 0.0], [0.6, 0.1], [0.7, 0.2], [0.6, 0.9]])
  assert retrieval.video_to_text_ranks(similarity, [0, 1, 1, 1]).tolist() == [4, 1]
  assert retrieval.video_to_text_grouped_ranks(similarity, [0, 1, 1, 1]).tolist() == [2, 1]


@pytest.mark.parametrize("counts", [[3, 1, 2, 5, 1, 4], [2] * 20, [1] * 7, [4]], ids=str)
def test_grouped_protocol_is_the_maximum_over_captions_padded_with_minus_infinity(counts):
  """As CLIP4Clip computes it; in any order of the texts, which are consecutive there."""
  rng = np.random.default_rng(len(counts))
  labels = np.repeat(np.arange(len(counts)), counts)
  similarity = rng.normal(size=(len(labels), len(counts)))
  padded = np.full((len(counts), max(counts), len(counts)), -np.inf)
  for label, count in enumerate(counts):
    padded[label, :count] = similarity[labels == label]
  scores = padded.max(axis=1).T
  ranks = 1 + np.argsort(np.argsort(-scores, axis=1), axis=1).diagonal()
  order = rng.permutation(len(labels))
  assert retrieval.video_to_text_grouped_ranks(similarity[order], labels[order]).tolist() == ranks.tolist()


def test_protocols_are_equal_with_one_caption_per_video_and_then_only_one_is_in_the_results():
  similarity = np.random.default_rng(0).integers(0, 4, (6, 9)) / 4
  labels = [8, 2, 3, 0, 5, 7]
  grouped = retrieval.video_to_text_grouped_ranks(similarity, labels)
  assert grouped.tolist() == retrieval.video_to_text_ranks(similarity, labels).tolist()
  assert list(retrieval.evaluate(similarity, labels)["dsl"]) == ["text_to_video", "video_to_text"]
  several = retrieval.evaluate(similarity, [8, 2, 3, 0, 5, 5])
  assert list(several["plain"]) == ["text_to_video", "video_to_text", "video_to_text_grouped"] == list(several["dsl"])


def test_metrics_of_known_ranks():
  assert as_row(retrieval.rank_metrics([1, 2, 6, 11])) == [0.25, 0.5, 0.75, 4.0, 5.0]
  assert retrieval.percent(0.5012) == "50.1"


def test_dual_softmax_is_the_formula():
  similarity = np.random.default_rng(0).uniform(-0.3, 0.3, (6, 4))
  weights = np.exp(100 * similarity)
  assert_close(retrieval.dual_softmax(similarity), similarity * weights / weights.sum(0), 1e-12)


def test_dual_softmax_neither_overflows_nor_touches_its_input():
  similarity = np.array([[90.0, -90.0], [-90.0, 90.0]], np.float32)
  before = similarity.copy()
  assert_close(retrieval.dual_softmax(similarity), np.diag([90.0, 90.0]))
  assert (similarity == before).all()


def test_dual_softmax_demotes_a_hub_video():
  """Video 0 is closest to both texts; its own text is closer, which leaves video 1 to the other."""
  similarity = np.array([[0.9, 0.1], [0.5, 0.4]])
  metrics = retrieval.evaluate(similarity)
  assert metrics["plain"]["text_to_video"]["R@1"] == 0.5
  assert metrics["dsl"]["text_to_video"]["R@1"] == 1.0


def test_twin_accuracy_counts_ties_as_wrong():
  similarity = np.array([[0.9, 0.1, 0.0], [0.3, 0.3, 0.0], [0.0, 0.0, 0.0]])
  assert retrieval.twin_accuracy(similarity, [1, 0, -1]) == {"accuracy": 0.5, "count": 2}, "a tie is wrong"
  assert retrieval.twin_accuracy(similarity, [-1, -1, -1]) == {"accuracy": None, "count": 0}
  captions = retrieval.twin_accuracy(similarity, [1, 0, -1], labels=[0, 0, 1])
  assert captions == {"accuracy": 1 / 3, "count": 3}


def test_half_precision_and_integers_are_accepted():
  ml_dtypes = pytest.importorskip("ml_dtypes")
  for dtype in (np.float16, ml_dtypes.bfloat16, np.int8):
    assert retrieval.text_to_video_ranks(np.eye(3).astype(dtype)).tolist() == [1, 1, 1]


@pytest.mark.parametrize(
  ("similarity", "labels", "message"),
  [
    (np.eye(3)[:2], None, "2 texts and 3 videos: without labels it must be square.*; pass labels"),
    (np.zeros(3), None, r"shape \(3,\)"),
    (np.zeros((0, 3)), None, r"shape \(0, 3\)"),
    (np.array([["a"]]), None, "dtype <U1; expected real numbers"),
    (np.array([["0.5"]]), None, "dtype <U3; expected real numbers"),
    (np.array([[1j]]), None, "dtype complex128; expected real numbers"),
    (np.array([["2020"]], "M8[Y]"), None, r"dtype datetime64\[Y\]; expected real numbers"),
    ([[1.0, 2.0], [3.0]], None, "the similarity is not an array .*; pass rows of equal length"),
    (np.ma.masked_greater(np.eye(2), 0.5), None, "the similarity has masked values; leave out these"),
    (np.eye(2), [[0], [1, 2]], "labels is not an array .*; pass rows of equal length"),
    (np.eye(2), np.ma.masked_equal([0, 1], 1), "labels has masked values"),
    (np.array([[0.0, 1.0], [np.nan, 1.0]]), None, "text 1 and video 0 is nan .1 of 4 .*; check the features"),
    (np.array([[0.0, np.inf]]), [0], "text 0 and video 1 is inf .1 of 2 .*; check the features"),
    (np.eye(3), [0, 1], r"labels has shape \(2,\); expected \(3,\), one per text"),
    (np.eye(3), [0, 3, 1], r"labels\[1\] is 3; allowed are 0 to 2"),
    (np.eye(3), [0, -1, 1], r"labels\[1\] is -1; allowed are 0 to 2"),
    (np.eye(3), [0.0, 1.0, 2.0], "labels has dtype float64; expected integers"),
  ],
)
def test_invalid_similarity_and_labels_are_refused(similarity, labels, message):
  with pytest.raises(UserError, match=message):
    retrieval.evaluate(similarity, labels)


@pytest.mark.parametrize(
  ("twins", "message"),
  [
    ([1, 0], r"twins has shape \(2,\); expected \(3,\)"),
    ([1, 0, 2], r"twins\[2\].*own twin; use -1"),
    ([1, 0, -2], r"\[2\] is -2; allowed are -1 to 2"),
  ],
)
def test_invalid_twins_are_refused(twins, message):
  with pytest.raises(UserError, match=message):
    retrieval.twin_accuracy(np.eye(3), twins)


@pytest.mark.parametrize(
  ("ranks", "message"), [([0, 1], "ranks contain 0;"), ([1, math.nan], "ranks contain nan; .*from 1")]
)
def test_ranks_that_are_none_are_refused(ranks, message):
  with pytest.raises(UserError, match=message):
    retrieval.rank_metrics(ranks)


def test_split_without_query_is_refused():
  with pytest.raises(UserError, match="no query; choose another split"):
    retrieval.rank_metrics([])


def test_rank_histogram():
  ranks = [1, 1, 2, 5, 6, 10, 11, 20, 21, 50, 51, 100, 101, 200, 201, 500, 501, 1000, 1001]
  bins = ["1", "2-5", "6-10", "11-20", "21-50", "51-100", "101-200", "201-500", "501-1000", "1001-2000"]
  assert retrieval.rank_histogram(ranks) == {name: 2 if name != "1001-2000" else 1 for name in bins}
  assert list(retrieval.rank_histogram(ranks)) == bins
  assert retrieval.rank_histogram(np.array([11])) == {"1": 0, "2-5": 0, "6-10": 0, "11-20": 1}
  assert retrieval.rank_histogram([]) == {"1": 0, "2-5": 0, "6-10": 0}
