"""Bootstrap intervals against plain resampling and their coverage; mean and deviation of runs."""

import statistics

import numpy as np
import pytest

from clipvip_jax.evaluation import confidence
from clipvip_jax.utils.errors import UserError


def slow_interval(hits, videos, resamples, seed):
  """Draws videos one by one, each with all of its queries."""
  rng = np.random.default_rng(seed)
  own = {video: hits[videos == video] for video in set(videos.tolist())}
  names = sorted(own)
  shares = []
  for _ in range(resamples):
    drawn = [own[names[i]] for i in rng.integers(0, len(names), len(names))]
    shares.append(np.concatenate(drawn).mean())
  return np.percentile(shares, [2.5, 97.5])


@pytest.mark.parametrize("several", [False, True])
def test_interval_agrees_with_drawing_videos_one_by_one(several):
  rng = np.random.default_rng(3)
  videos = rng.integers(0, 60, 300) if several else np.arange(150)
  ease = rng.random(videos.max() + 1)  # captions of a video are alike
  hits = rng.random(len(videos)) < ease[videos]
  expected = slow_interval(hits, videos, 4000, seed=1)
  np.testing.assert_allclose(confidence.bootstrap_interval(hits, videos), expected, atol=0.012)


def test_interval_covers_the_true_recall_in_95_percent_of_samples():
  rng = np.random.default_rng(0)
  inside = 0
  for _ in range(400):
    low, high = confidence.bootstrap_interval(rng.random(300) < 0.3, np.arange(300), resamples=1000)
    inside += low <= 0.3 <= high
  assert 0.91 <= inside / 400 <= 0.98


@pytest.mark.parametrize(("hits", "videos"), [([], []), ([True, False], [0])])
def test_interval_of_nothing_or_of_other_queries_is_refused(hits, videos):
  with pytest.raises(UserError, match=rf"{len(hits)} hits of {len(videos)} queries; an interval needs one per query"):
    confidence.bootstrap_interval(np.array(hits, bool), np.array(videos, int))


def test_captions_of_one_video_are_resampled_together():
  hits = np.repeat(np.arange(50) % 2 == 0, 20)
  alone, together = (
    confidence.bootstrap_interval(hits, np.arange(1000)),
    confidence.bootstrap_interval(hits, np.repeat(np.arange(50), 20)),
  )
  assert together[1] - together[0] > 3 * (alone[1] - alone[0])


def test_interval_is_deterministic_at_any_chunk_size(monkeypatch):
  rng = np.random.default_rng(0)
  hits, videos = rng.random(200) < 0.4, rng.integers(0, 50, 200)
  interval = confidence.bootstrap_interval(hits, videos)
  monkeypatch.setattr(confidence, "MAX_CHUNK", 100)
  assert confidence.bootstrap_interval(hits, videos) == interval
  assert interval[0] < hits.mean() < interval[1]
  assert confidence.bootstrap_interval(hits, videos, seed=1) != interval


@pytest.mark.parametrize(("hits", "expected"), [([True], [1.0, 1.0]), ([False] * 5, [0.0, 0.0])])
def test_interval_of_all_hits_or_all_misses_is_a_point(hits, expected):
  assert confidence.bootstrap_interval(np.array(hits), np.arange(len(hits))) == expected


def test_mean_and_sample_standard_deviation_of_every_number():
  runs = [
    {"size": 4, "plain": {"R@1": x, "R@1_interval": [0, 1]}, "twins": {"accuracy": None}} for x in (0.1, 0.2, 0.6)
  ]
  summary = confidence.mean_and_sd(runs)
  assert summary["plain"] == {
    "R@1": {"mean": pytest.approx(0.3), "sd": pytest.approx(statistics.stdev((0.1, 0.2, 0.6)))}
  }
  assert summary["size"] == {"mean": 4.0, "sd": 0.0} and summary["twins"] == {}
  for value in (10**400, float("nan"), "1"):  # of an edited file
    assert confidence.mean_and_sd([{"a": 1, "b": 1}, {"a": value, "b": 3}]).keys() == {"b"}
