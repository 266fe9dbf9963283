"""Waiting for what another process or thread does."""

import time

_SECONDS = 300.0  # of a slow machine under load; only a test that fails waits as long


def wait_until(condition, process=None):
  """Returns when a condition is true; fails if it does not become true, or if the process ends before."""
  end = time.monotonic() + _SECONDS
  while not condition():
    assert time.monotonic() < end, f"waited for {_SECONDS:g} s"
    assert process is None or process.poll() is None or condition(), f"ended with code {process.returncode}"
    time.sleep(0.02)
