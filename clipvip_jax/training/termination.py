"""SIGTERM handling: a run stops after a step, not within one."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

import jax
from jax.experimental import multihost_utils


@contextlib.contextmanager
def handle_sigterm() -> Iterator[Callable[[int], bool]]:
  """Yields `should_stop(step)`: whether SIGTERM was received and the run has to stop after `step`.

  In a launch of several processes, JAX's preemption service receives the signal on any of them and picks one step at
  which all stop. Signals can be handled in the main thread only; in other threads `should_stop` is always false.
  """
  if jax.process_count() > 1:
    yield multihost_utils.reached_preemption_sync_point
    return
  if threading.current_thread() is not threading.main_thread():
    yield lambda step: False
    return
  received = threading.Event()
  previous = signal.signal(signal.SIGTERM, lambda *_: received.set())
  try:
    yield lambda step: received.is_set()
  finally:
    signal.signal(signal.SIGTERM, previous)
