"""Bytes that a collective sends."""

import pytest

from clipvip_jax.cost_model import collective


@pytest.mark.parametrize(
  ("kind", "sent"),
  [
    ("all-reduce", 300),
    ("all-gather", 150),
    ("reduce-scatter", 150),
    ("all-to-all", 150),
    ("collective-permute", 200),
  ],
)
def test_bytes_sent_are_those_of_a_ring(kind, sent):
  assert collective.Collective(kind, 100, 4, times=2).sent == sent


def test_total_is_the_sum():
  collectives = [collective.Collective("all-gather", 100, 4), collective.Collective("all-reduce", 100, 2)]
  assert collective.total_bytes(collectives) == 75 + 100
