"""Stop requests of a single process and of a launch."""

import os
import signal

import jax
import pytest
from jax.experimental import multihost_utils

from clipvip_jax.distributed import termination
from clipvip_jax.utils import signals
from clipvip_jax.utils.errors import Terminated


def test_a_deferred_signal_of_this_process_requests_a_stop():
  with signals.handled():
    signals.defer()
    assert not termination.stop_requested()
    os.kill(os.getpid(), signal.SIGHUP)
    assert termination.stop_requested() == signal.SIGHUP
    termination.raise_if_requested()  # in a single process, the handler raises


def test_in_a_launch_jax_picks_a_call_of_either_function(monkeypatch):
  asked = []

  def reached(call):
    asked.append(call)
    return len(asked) in (3, 4)

  monkeypatch.setattr(jax, "process_count", lambda: 2)
  monkeypatch.setattr(multihost_utils, "reached_preemption_sync_point", reached)
  assert not termination.stop_requested()
  termination.raise_if_requested()
  assert termination.stop_requested() == signal.SIGTERM
  with pytest.raises(Terminated, match="SIGTERM: "):
    termination.raise_if_requested()
  assert asked == list(range(asked[0], asked[0] + 4)), "the numbers of the calls increase by one"
