"""Calls with a time limit."""

import threading
import time

import pytest

from clipvip_jax.utils.time_limit import call_within


def test_a_call_that_returns_in_time_has_its_effect():
  done = []
  call_within(10, lambda: done.append(1))
  assert done == [1]


def test_errors_of_the_call_are_raised():
  with pytest.raises(ZeroDivisionError):
    call_within(10, lambda: 1 / 0)


def test_a_call_that_does_not_return_is_abandoned():
  event, start = threading.Event(), time.monotonic()
  with pytest.raises(TimeoutError, match=r"not finished within 0\.05 seconds"):
    call_within(0.05, event.wait)
  assert time.monotonic() - start < 5
  event.set()
