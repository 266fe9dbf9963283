"""The order in which sources have their turn."""

import numpy as np
import pytest

from clipvip_jax.input_pipeline.mixture import steps_until, stream_schedule

WEIGHTS = [[1.0], [1.0, 1.0], [2.0, 1.0, 1.0], [0.1, 0.4], [1.0, 0.001], [0.64, 0.28, 0.05, 0.03, 0.82, 0.91]]


def by_hand(weights, num_steps):
  """The rule, one batch after another, in whole numbers where the weights are."""
  total, given, turns = sum(weights), [0] * len(weights), []
  for _ in range(num_steps):
    due = [round((count + 0.5) * total / weight, 6) for count, weight in zip(given, weights, strict=True)]
    source = due.index(min(due))
    turns.append((source, given[source]))
    given[source] += 1
  return turns


@pytest.mark.parametrize("weights", WEIGHTS, ids=str)
def test_batches_come_as_they_fall_due(weights):
  found = stream_schedule(weights, 0, 500)
  assert list(zip(*(x.tolist() for x in found), strict=True)) == by_hand(weights, 500)


@pytest.mark.parametrize("weights", WEIGHTS, ids=str)
def test_any_part_of_the_stream_schedule_is_that_part_of_the_whole(weights):
  whole = np.stack(stream_schedule(weights, 0, 3000))
  rng = np.random.default_rng(0)
  for first, count in zip(rng.integers(2900, size=50), rng.integers(1, 100, size=50), strict=True):
    np.testing.assert_array_equal(np.stack(stream_schedule(weights, first, count)), whole[:, first : first + count])


@pytest.mark.parametrize("weights", WEIGHTS, ids=str)
def test_every_source_keeps_to_its_share(weights):
  source, _ = stream_schedule(weights, 0, 3000)
  shares = np.array(weights) / sum(weights)
  for steps in (1, 10, 100, 3000):
    counts = np.bincount(source[:steps], minlength=len(weights))
    assert np.abs(counts - steps * shares).max() <= len(weights) / 2 + 1


@pytest.mark.parametrize("weights", WEIGHTS, ids=str)
def test_steps_until_a_source_has_given_its_batches(weights):
  source, index = stream_schedule(weights, 0, 3000)
  for i in range(len(weights)):
    for batches in (1, 2, np.count_nonzero(source == i)):
      (at,) = np.flatnonzero((source == i) & (index == batches - 1))
      assert steps_until(weights, i, batches) == at + 1
  assert steps_until(weights, 0, 0) == 0


def test_a_far_step_costs_no_more_and_is_exact():
  source, index = stream_schedule([2, 1, 1], 10**9, 4)
  assert source.tolist() == [0, 1, 2, 0]
  assert index.tolist() == [5 * 10**8, 25 * 10**7, 25 * 10**7, 5 * 10**8 + 1]
