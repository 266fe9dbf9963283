"""Detects hung processes and dead peer processes, and aborts with stack traces.

A thread checks every two seconds whether the run called `report_progress`, and the status of the other processes of the
launch. Time in which the thread itself did not run does not count: the process was suspended (SIGSTOP, a closed laptop,
a paused container). The last progress is global to the process, so any module can report it.
"""

import contextlib
import faulthandler
import os
import pathlib
import threading
import time
from types import TracebackType
from typing import NoReturn, Self

import jax

from clipvip_jax.distributed import coordination
from clipvip_jax.utils.cli import EXIT_HUNG
from clipvip_jax.utils.errors import Terminated
from clipvip_jax.utils.log import print_error, printable

CHECK_SECONDS = 2.0
MAX_DELAY_SECONDS = 4.0  # of a check; after a longer one, the process was suspended
# Seconds without a status update after which a peer counts as dead; the second after an error here that its death may
# have caused. Long, since an import or a compilation may keep the peer's watchdog thread from running for a while.
LOST_SECONDS, LOST_SECONDS_AFTER_ERROR = 40.0, 10.0
# Seconds after which a process follows a peer that failed, unless it ends by itself.
FOLLOW_SECONDS = 15.0
# Seconds for writing stack traces, which may hang as well.
_WRITE_SECONDS = 10.0


class _Progress:
  """One report of progress; compared by identity."""

  def __init__(self, activity: str):
    self.activity = activity


_last_progress = _Progress("")


def report_progress(activity: str) -> None:
  """Resets the watchdog. `activity` is what the run does from now on, for the error message."""
  global _last_progress
  _last_progress = _Progress(activity)


class PeerMonitor:
  """Finds processes of the launch that died or failed, by their published statuses."""

  def __init__(self) -> None:
    self.lost_seconds = LOST_SECONDS
    self._last_seen: dict[int, tuple[coordination.Status, float]] = {}  # the status, and when it was first read

  def check(self, suspended: float = 0.0) -> str:
    """Publishes the status of this process and reads the others'.

    Args:
      suspended: seconds since the last check in which this process did not run.

    Returns:
      A message that names the process that died or failed; "" if there is none.
    """
    now = time.monotonic()
    self._last_seen = {process: (status, since + suspended) for process, (status, since) in self._last_seen.items()}
    try:
      coordination.publish_status("alive")
      statuses = coordination.read_statuses()
    except jax.errors.JaxRuntimeError as error:
      return f"process 0, the coordinator of this launch, does not respond ({error})"
    for process, status in statuses.items():
      if status.state == "lost":  # found by another process
        return f"process {process} {status.message}"
      previous, since = self._last_seen.get(process, (None, 0.0))
      if previous != status:
        self._last_seen[process] = status, now
      elif status.state == "alive" and now - since > self.lost_seconds:
        message = f"died or its host is down: no status for {now - since:.0f} s"
        coordination.publish_status("lost", message, process)
        return f"process {process} {message}"
      elif status.state == "failed" and now - since > FOLLOW_SECONDS:
        return f"process {process} failed: {status.message}"
    return ""


class Watchdog:
  """Context manager that ends the process with EXIT_HUNG if its block makes no progress or a peer process dies."""

  def __init__(self, workdir: pathlib.Path, timeout: float):
    """Creates a watchdog.

    Args:
      workdir: the run's folder, for stack_traces_process_N.txt with the stacks of all threads.
      timeout: seconds without progress; 0 for no limit.
    """
    self._workdir, self._timeout = workdir, timeout
    self._peers = PeerMonitor() if jax.process_count() > 1 else None
    self._finished = threading.Event()
    self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

  def __enter__(self) -> Self:
    report_progress("starting")
    self._thread.start()
    return self

  def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
    """Stops watching. After an error that the death of a peer may have caused, first looks for that peer."""
    if self._peers and isinstance(error, jax.errors.JaxRuntimeError | ValueError | RuntimeError):
      report_progress(f"ending after an error: {error}")
      self._peers.lost_seconds = LOST_SECONDS_AFTER_ERROR
      time.sleep(LOST_SECONDS_AFTER_ERROR + 3 * CHECK_SECONDS)  # the thread ends the process if a peer is dead
    self._finished.set()
    self._thread.join()
    if self._peers and (kind is None or isinstance(error, Terminated)):
      coordination.publish_status("done")

  def _watch(self) -> None:
    idle, progress, last_check = 0.0, _last_progress, time.monotonic()
    while not self._finished.wait(CHECK_SECONDS):
      now = time.monotonic()
      gap, last_check = now - last_check, now
      suspended = gap if gap > CHECK_SECONDS + MAX_DELAY_SECONDS else 0.0
      latest = _last_progress
      idle, progress = (idle + gap - suspended if latest is progress else 0.0), latest
      if self._timeout and idle > self._timeout:
        self._abort(
          f"no progress for {idle:.0f} s (host.watchdog_timeout={self._timeout:g}); last activity: {progress.activity}"
        )
      if self._peers and (problem := self._peers.check(suspended)):
        self._abort(f"{problem}; activity here: {progress.activity}")

  def _abort(self, message: str) -> NoReturn:
    """Prints the message and the stacks of all threads, writes them to the workdir, and ends the process."""
    message = f"process {jax.process_index()}: {message}"
    print_error(f"error: {printable(message)}")
    timer = threading.Timer(_WRITE_SECONDS, os._exit, [EXIT_HUNG])
    timer.start()
    faulthandler.dump_traceback()
    path = self._workdir / f"stack_traces_process_{jax.process_index()}.txt"
    with contextlib.suppress(OSError), path.open("w", encoding="utf-8") as file:
      print(message, file=file, flush=True)
      faulthandler.dump_traceback(file)
    timer.cancel()
    if self._peers:
      coordination.shutdown(EXIT_HUNG, message)
    os._exit(EXIT_HUNG)
