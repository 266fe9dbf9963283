"""Frame sampling: the reference's numbers, and properties for all clip lengths."""

import numpy as np
import pytest

from clipvip_jax.input_pipeline.frame_sampling import jittered_frames, middle_frame, uniform_frames, uniform_in_time
from clipvip_jax.utils.errors import UserError

LENGTHS = [*range(1, 30), 40, 77, 300, 1801]
COUNTS = [1, 2, 3, 4, 5, 8, 12, 32]


def test_uniform_frames_equal_the_reference(golden):
  schedules = golden("schedules.json")["uniform_frame_indices"]
  assert len(schedules) == 36
  for key, expected in schedules.items():
    num_frames, count = map(int, key.split(","))
    assert uniform_frames(num_frames, count).tolist() == expected, key


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("rate", [1, 12, 24000 / 1001, 59.94, 400])
def test_a_constant_rate_is_sampled_evenly_whatever_its_last_duration_and_rounding(rate, count):
  for num_frames in LENGTHS:
    begins = (0.5 + np.arange(num_frames) / rate).round(3)  # Matroska
    for last in (0.0, 1 / rate, 1.4 / rate):
      sampled = uniform_in_time(begins.tolist(), begins[-1] + last, count)
      np.testing.assert_array_equal(sampled, uniform_frames(num_frames, count))


def test_a_variable_rate_is_sampled_by_time():
  assert uniform_in_time([0, 0.1, 0.2, 0.3, 10], 10.1, 3).tolist() == [0, 3, 4]
  assert uniform_in_time([0, 1, 2], 30, 3).tolist() == [0, 2, 2], "the last frame is a still of 28 s"
  assert uniform_in_time([0, 0.1, 0.6], 0.65, 3).tolist() == [0, 1, 2], "too short for three samples at 3 a second"
  assert uniform_in_time([0, 0, 0, 0], 0.04, 2).tolist() == [0, 3], "without times"
  with pytest.raises(UserError, match="0 frames"):
    uniform_in_time([], 0, 3)


@pytest.mark.parametrize("count", COUNTS)
def test_frames_are_in_range_and_never_decrease(count):
  rng = np.random.default_rng(0)
  for num_frames in LENGTHS:
    for frames in [
      uniform_frames(num_frames, count),
      *(jittered_frames(num_frames, count, rng) for _ in range(50)),
    ]:
      assert frames.dtype == np.int64 and frames.shape == (count,)
      assert frames.min() >= 0 and frames.max() < num_frames, (num_frames, frames)
      assert (np.diff(frames) >= 0).all(), (num_frames, frames)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 12])
@pytest.mark.parametrize("num_frames", [1, 2, 3, 4, 11, 12, 13, 24, 40])
def test_jitter_reaches_every_frame(num_frames, count):
  rng = np.random.default_rng(1)
  sampled = {int(frame) for _ in range(2000) for frame in jittered_frames(num_frames, count, rng)}
  assert sampled == set(range(num_frames))


@pytest.mark.parametrize(("num_frames", "count"), [(40, 4), (40, 12), (300, 12), (13, 12), (12, 12), (5, 12)])
def test_jitter_samples_first_and_last_frame_uniformly_within_the_gap(num_frames, count):
  gap = int(num_frames / (count - 1))
  rng = np.random.default_rng(2)
  draws = np.stack([jittered_frames(num_frames, count, rng) for _ in range(4000)])
  for ends, lowest in [(draws[:, 0], 0), (draws[:, -1], num_frames - 1 - gap)]:
    frequency = np.bincount(ends - lowest, minlength=gap + 1) / len(draws)
    assert frequency.shape == (gap + 1,)  # both bounds are inclusive
    np.testing.assert_allclose(frequency, 1 / (gap + 1), atol=5 * 0.5 / np.sqrt(len(draws)))
  between = [np.linspace(first, last, count).astype(int) for first, last in draws[:, [0, -1]]]
  np.testing.assert_array_equal(draws, between)


@pytest.mark.parametrize("num_frames", [1, 2, 7])
def test_one_or_two_jittered_frames_cover_the_clip(num_frames):
  rng = np.random.default_rng(3)
  single = np.concatenate([jittered_frames(num_frames, 1, rng) for _ in range(7000)])
  np.testing.assert_allclose(np.bincount(single) / 7000, 1 / num_frames, atol=0.03)
  pairs = {tuple(jittered_frames(num_frames, 2, rng).tolist()) for _ in range(2000)}
  assert pairs == {(first, last) for last in range(num_frames) for first in range(last + 1)}


def test_jitter_depends_only_on_its_generator():
  draws = [jittered_frames(300, 12, np.random.default_rng((5, 1, 7))).tolist() for _ in range(2)]
  assert draws[0] == draws[1]
  assert draws[0] != jittered_frames(300, 12, np.random.default_rng((5, 2, 7))).tolist()


def test_middle_frame():
  assert [middle_frame(n) for n in (1, 2, 3, 4, 11, 300)] == [0, 1, 1, 2, 5, 150]


def test_clips_without_frames_and_empty_samples_are_rejected():
  rng = np.random.default_rng(0)
  for draw in (uniform_frames, lambda n, t: jittered_frames(n, t, rng), lambda n, _: middle_frame(n)):
    with pytest.raises(UserError, match="from a clip of 0 frames; remove the clip from the corpus"):
      draw(0, 4)
  for draw in (uniform_frames, lambda n, t: jittered_frames(n, t, rng)):
    with pytest.raises(UserError, match="cannot sample 0 frames from a clip; sample at least 1"):
      draw(4, 0)
