"""Bytes that are in no packet."""

import types

import pytest

from clipvip_jax.input_pipeline.skipped_bytes import SkippedBytes


@pytest.mark.parametrize(("hole", "found"), [(5000, True), (3000, False), (0, False)])
def test_a_gap_is_found_if_the_bytes_that_it_would_hold_are_skipped(hole, found):
  """Ten packets of 100 bytes a second, with ten bytes before each; after one second, five without pictures."""
  skipped, gaps = SkippedBytes(0.1), []
  for index in range(20):
    time, position = index + (50 if index >= 10 else 0), 110 * index + (hole if index >= 10 else 0)
    skipped.add_packet(types.SimpleNamespace(size=100, pos=position + 10))
    gaps.append(skipped.fill_gap(time / 10))
  assert gaps == [found and index == 10 for index in range(20)]


def test_packets_without_positions_have_no_gaps():
  skipped = SkippedBytes(0.1)
  for seconds in (0.0, 9.0):
    skipped.add_packet(types.SimpleNamespace(size=9999, pos=None))
    assert not skipped.fill_gap(seconds)
