"""A tracker in a process of its own, so that one that raises, hangs, is slow or crashes does not affect the run.

A thread alone would not do: packages of trackers hold the interpreter's lock while they are imported, and wait for the
network when the interpreter exits.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

from clipvip_jax.tracking.tracker import Status, TrackedRun, Tracker
from clipvip_jax.tracking.tracker_process import FINISHED
from clipvip_jax.utils.log import log, printable

CAPACITY = 1000  # records that wait for the tracker; further ones are dropped
# Seconds that the end of a run waits for the tracker. After a signal, launchers kill a run that takes long.
CLOSE_SECONDS: dict[Status, float] = {"finished": 30.0, "stopped": 10.0, "failed": 10.0}
_COMMAND = "from clipvip_jax.tracking.tracker_process import serve; serve()"
_MAX_MESSAGE = 300  # characters of a tracker's error
_LAST_MESSAGES_SECONDS = 1.0  # to read what an ended process has reported


class BackgroundTracker(Tracker):
  """Passes records to a tracker in a child process. No method raises, and only `finish` waits, for a limited time.

  The first failure is logged as a warning, and the number of dropped records at the end.
  """

  def __init__(
    self, name: str, *, capacity: int = CAPACITY, close_seconds: Mapping[Status, float] = CLOSE_SECONDS
  ) -> None:
    """Starts no process yet.

    Args:
      name: of the tracker, see names.py.
      capacity: records that may wait for it.
      close_seconds: limits of `finish`.
    """
    self._name, self._close_seconds = name, close_seconds
    self._queue: queue.Queue[list[Any] | None] = queue.Queue(capacity)
    self._process: subprocess.Popen[bytes] | None = None
    self._receiver: threading.Thread | None = None
    self._dropped = 0
    self._has_warned = threading.Lock()  # locked by the first warning

  def start(self, run: TrackedRun) -> str:
    """Starts the process; it records the run's id in the workdir."""
    # The same interpreter and module path. One thread for NumPy, which packages of trackers import.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    try:
      self._process = subprocess.Popen(
        [sys.executable, "-c", _COMMAND, self._name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
        start_new_session=True,  # Ctrl-C is for the run
      )
    except OSError as error:
      self._warn(f"its process cannot be started ({error.strerror})")
      return ""
    sender, self._receiver = (
      threading.Thread(target=target, args=(self._process,), name=f"tracker {self._name}", daemon=True)
      for target in (self._send, self._receive)
    )
    sender.start()
    self._receiver.start()
    self._put(["start", {**dataclasses.asdict(run), "workdir": str(run.workdir)}])
    return ""

  def log_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
    """Passes metrics on."""
    self._put(["metrics", step, dict(metrics)])

  def log_results(self, step: int, results: Mapping[str, float], report: pathlib.Path) -> None:
    """Passes results and the path of the report on."""
    self._put(["results", step, dict(results), str(report)])

  def finish(self, status: Status) -> None:
    """Waits until the tracker has recorded everything, at most `close_seconds`; then ends its process."""
    if self._process is None or self._receiver is None:
      return
    seconds = self._close_seconds[status]
    end = time.monotonic() + seconds
    try:
      for message in (["finish", status], None):
        self._queue.put(message, timeout=max(0.0, end - time.monotonic()))
      self._process.wait(max(0.0, end - time.monotonic()))
    except (queue.Full, subprocess.TimeoutExpired):
      self._warn(f"it does not end within {seconds:g} s (is its server reachable?) and is killed")
      with contextlib.suppress(ProcessLookupError):
        os.killpg(self._process.pid, signal.SIGKILL)  # with its own children
      self._process.wait()
    self._receiver.join(_LAST_MESSAGES_SECONDS)
    if self._dropped:
      log.info("tracker %s: %d records were dropped", self._name, self._dropped)

  def _put(self, message: list[Any]) -> None:
    if self._process is None:
      return
    try:
      self._queue.put_nowait(message)
    except queue.Full:
      self._dropped += 1
      self._warn(f"it is too slow: {self._queue.maxsize} records wait for it, and further ones are dropped")

  def _send(self, process: subprocess.Popen[bytes]) -> None:
    """Writes the records of the queue to the process until the end of the run; drops them if the process has ended."""
    assert process.stdin is not None
    for message in iter(self._queue.get, None):
      with contextlib.suppress(BrokenPipeError):
        process.stdin.write(json.dumps(message).encode() + b"\n")
        process.stdin.flush()
    with contextlib.suppress(BrokenPipeError):
      process.stdin.close()

  def _receive(self, process: subprocess.Popen[bytes]) -> None:
    """Logs failures that the process reports, and its end by a crash or before the tracker has finished."""
    assert process.stdout is not None
    is_finished = False
    with process.stdout:
      for line in process.stdout:
        with contextlib.suppress(ValueError):  # output of a package, not a report
          answer = json.loads(line)
          is_finished = answer is FINISHED
          if not is_finished:
            self._warn(printable(answer, _MAX_MESSAGE))
    code = process.wait()
    if code or not is_finished:
      self._warn(f"its process crashed ({signal.Signals(-code).name if code < 0 else f'exit code {code}'})")

  def _warn(self, problem: str) -> None:
    if self._has_warned.acquire(blocking=False):
      log.warning("tracker %s: %s; the run continues, later failures are not logged", self._name, problem.rstrip("."))
