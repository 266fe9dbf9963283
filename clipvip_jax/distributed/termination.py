"""Stop requests of a run: signals of this process, or of any process of a launch.

Handlers are installed by `utils/signals.py`; `training/loop.py` saves and stops. In a launch, JAX's preemption service
receives SIGTERM on any process and picks one call of `stop_requested` or `raise_if_requested` at which all of them
stop. All processes must make the same calls in the same order.
"""

import itertools
import signal

import jax
from jax.experimental import multihost_utils

from clipvip_jax.utils import signals
from clipvip_jax.utils.errors import Terminated

_calls = itertools.count()


def stop_requested() -> int:
  """Returns the signal for which the run has to save and stop, 0 if there is none."""
  if jax.process_count() == 1:
    return signals.received()
  return signal.SIGTERM if multihost_utils.reached_preemption_sync_point(next(_calls)) else 0


def raise_if_requested() -> None:
  """Ends an evaluation of a launch between two batches; in a single process, the signal's handler does.

  Raises:
    Terminated: a process of the launch received SIGTERM.
  """
  if jax.process_count() > 1 and (number := stop_requested()):
    raise Terminated(number, signals.note())
