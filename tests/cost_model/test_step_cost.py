"""Cost of a compiled step and what fits a chip."""

import pytest

from clipvip_jax.cost_model import chips, step_cost
from clipvip_jax.cost_model.collective import Collective


def test_largest_number_of_clips_is_extrapolated_and_rounded_down_to_a_multiple():
  chip = chips.CHIPS["v5e"]
  gib = chips.GIB
  assert step_cost.clips_that_fit({4: 6 * gib, 8: 10 * gib}, chip, 1) == 14
  assert step_cost.clips_that_fit({4: 6 * gib, 8: 10 * gib}, chip, 4) == 12
  assert step_cost.clips_that_fit({4: 20 * gib, 8: 24 * gib}, chip, 1) == 0


@pytest.mark.parametrize(
  ("message", "used"),
  [
    ("Ran out of memory in memory space hbm. Used 17.50G of 15.75G hbm. Exceeded", 17.5 * 2**30),
    ("Used 512.0M of 15.75G hbm", 2**29),
    ("RESOURCE_EXHAUSTED", 0),
  ],
)
def test_used_bytes_are_parsed_from_the_compilers_message(message, used):
  assert step_cost.used_bytes(message) == used


@pytest.mark.parametrize(("loops", "operations"), [(False, 1e12), (True, 4e12 / 2)])
def test_step_seconds_are_those_of_the_published_peaks(loops, operations):
  chip = chips.CHIPS["h100"]
  collectives = (Collective("all-gather", 200, 2, span=2), Collective("all-gather", 200, 2, span=9))
  cost = step_cost.Cost({}, 1e12, {"vision": 6e8, "text": 4e8}, collectives, (), {"video": 4e12}, 0.0)
  seconds = step_cost.step_seconds(cost, chip, 2, loops=loops)
  assert seconds["compute"] == operations / chip.flops
  assert seconds["memory"] == 1e9 / chip.hbm_bandwidth
  assert seconds["interconnect"] == pytest.approx(100 / chip.interconnect + 100 / chip.network)


def test_only_the_usable_fraction_of_memory_counts():
  chip = chips.CHIPS["h100"]
  assert step_cost.fits(0.75 * chip.hbm, chip)
  assert not step_cost.fits(0.76 * chip.hbm, chip)
