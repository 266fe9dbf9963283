"""The schedule of weighted streams."""

import numpy as np
import pytest

from clipvip_jax.input_pipeline.mixture import steps_until, stream_schedule

WEIGHTS = [[1.0], [1.0, 1.0], [2.0, 1.0, 1.0], [0.1, 0.4], [1.0, 0.001], [0.64, 0.28, 0.05, 0.03, 0.82, 0.91]]


def sequential_schedule(weights, num_steps):
  """Applies the rule one batch at a time: the next batch is the one that is due first."""
  total, counts, schedule = sum(weights), [0] * len(weights), []
  for _ in range(num_steps):
    due = [round((count + 0.5) * total / weight, 6) for count, weight in zip(counts, weights, strict=True)]
    stream = due.index(min(due))
    schedule.append((stream, counts[stream]))
    counts[stream] += 1
  return schedule


@pytest.mark.parametrize("weights", WEIGHTS, ids=str)
def test_equals_the_sequential_schedule(weights):
  streams, batches = stream_schedule(weights, 0, 500)
  assert list(zip(streams.tolist(), batches.tolist(), strict=True)) == sequential_schedule(weights, 500)


@pytest.mark.parametrize("weights", WEIGHTS, ids=str)
def test_any_range_equals_that_range_of_the_full_schedule(weights):
  full = np.stack(stream_schedule(weights, 0, 3000))
  rng = np.random.default_rng(0)
  for first, count in zip(rng.integers(2900, size=50), rng.integers(1, 100, size=50), strict=True):
    np.testing.assert_array_equal(np.stack(stream_schedule(weights, first, count)), full[:, first : first + count])


@pytest.mark.parametrize("weights", WEIGHTS, ids=str)
def test_streams_follow_their_weights_at_every_step(weights):
  streams, _ = stream_schedule(weights, 0, 3000)
  fractions = np.array(weights) / sum(weights)
  for steps in (1, 10, 100, 3000):
    counts = np.bincount(streams[:steps], minlength=len(weights))
    assert np.abs(counts - steps * fractions).max() <= len(weights) / 2 + 1


@pytest.mark.parametrize("weights", WEIGHTS, ids=str)
def test_steps_until_a_stream_has_contributed_its_batches(weights):
  streams, batches = stream_schedule(weights, 0, 3000)
  for stream in range(len(weights)):
    for num_batches in (1, 2, np.count_nonzero(streams == stream)):
      (last_step,) = np.flatnonzero((streams == stream) & (batches == num_batches - 1))
      assert steps_until(weights, stream, num_batches) == last_step + 1
  assert steps_until(weights, 0, 0) == 0


def test_a_late_step_is_exact_and_needs_no_earlier_ones():
  streams, batches = stream_schedule([2, 1, 1], 10**9, 4)
  assert streams.tolist() == [0, 1, 2, 0]
  assert batches.tolist() == [5 * 10**8, 25 * 10**7, 25 * 10**7, 5 * 10**8 + 1]
