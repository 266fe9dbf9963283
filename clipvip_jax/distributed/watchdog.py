"""Ends a run that stands still, or that waits for a process that is no more, with words, in place of a silent night.

A thread looks every few seconds at what the run last reported with `report_progress`, and at the other
processes of the launch. A run has one watchdog as it has one log, so whoever makes progress reports it
without being handed anything.
"""

import contextlib
import faulthandler
import os
import pathlib
import sys
import threading
import time
from types import TracebackType
from typing import Any, Self

import jax

from clipvip_jax.distributed import coordination
from clipvip_jax.utils.cli import EXIT_HUNG
from clipvip_jax.utils.errors import Terminated
from clipvip_jax.utils.log import printable

_LOOK_SECONDS = 2.0
# A process that was not heard of for so long is lost, the second where an error in this one says the same. Its thread
# may be silent for a while where an import or a compiler lets no other run.
_LOST_SECONDS, _LOST_AFTER_ERROR = 40.0, 10.0
# The writing of stacks may hang as well.
_LAST_WORDS_SECONDS = 10.0
# One that failed is followed by the others after so long, if what ended it does not end them.
_FOLLOW_SECONDS = 15.0

_last = (0.0, "")  # when, what


def report_progress(doing: str) -> None:
  """Reports progress: what the run does from now on."""
  global _last
  _last = (time.monotonic(), doing)


class Watchdog:
  """Watches a run inside a `with` block.

  Args:
    folder: of the run, which gets stuck_process_N.txt with the stacks of all threads.
    patience: seconds without progress after which the process is ended; 0: any.
  """

  def __init__(self, folder: pathlib.Path, patience: float):
    self._folder, self._patience = folder, patience
    self._several = jax.process_count() > 1
    self._silence = _LOST_SECONDS
    self._over = threading.Event()
    self._heard: dict[int, tuple[list[Any], float]] = {}  # process -> what it said, since when
    self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

  def __enter__(self) -> Self:
    report_progress("starting")
    self._thread.start()
    return self

  def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
    """Leaves the run; after an error that another process' loss may have caused, that process is looked for first."""
    if self._several and isinstance(error, jax.errors.JaxRuntimeError | ValueError | RuntimeError):
      report_progress(f"ending after an error: {error}")
      self._silence = _LOST_AFTER_ERROR
      time.sleep(_LOST_AFTER_ERROR + 3 * _LOOK_SECONDS)  # the thread ends the process if one is lost
    self._over.set()
    self._thread.join()
    if self._several and (kind is None or isinstance(error, Terminated)):
      coordination.publish_status("done")

  def _watch(self) -> None:
    while not self._over.wait(_LOOK_SECONDS):
      when, doing = _last
      still = time.monotonic() - when
      if self._patience and still > self._patience:
        self._end(f"no progress for {still:.0f} s (host.watchdog_timeout={self._patience:g}); last: {doing}")
      if self._several and (lost := self._lost()):
        self._end(f"{lost}; here: {doing}")

  def _lost(self) -> str:
    """Which process is no more, in words; "": none."""
    now = time.monotonic()
    try:
      coordination.publish_status("alive")
      states = coordination.read_statuses()
    except jax.errors.JaxRuntimeError as error:
      return f"process 0, which holds the launch together, does not answer ({error})"
    for process, said in states.items():
      state, words, _ = said
      if state == "lost":  # another process has found that out
        return f"process {process} {words}"
      before, when = self._heard.get(process, (None, 0.0))
      if before != said:
        self._heard[process] = said, now
      elif state == "alive" and now - when > self._silence:
        words = f"was not heard of for {now - when:.0f} s: killed, or its host is gone"
        coordination.publish_status("lost", words, process)
        return f"process {process} {words}"
      elif state == "failed" and now - when > _FOLLOW_SECONDS:
        return f"process {process} failed: {words}"
    return ""

  def _end(self, words: str) -> None:
    """Says what is wrong, shows where every thread stands, and ends the process, whatever its threads wait for."""
    words = f"process {jax.process_index()}: {words}"
    print(f"error: {printable(words)}", file=sys.stderr, flush=True)
    hanging = threading.Timer(_LAST_WORDS_SECONDS, os._exit, [EXIT_HUNG])
    hanging.start()
    faulthandler.dump_traceback()
    path = self._folder / f"stuck_process_{jax.process_index()}.txt"
    with contextlib.suppress(OSError), path.open("w", encoding="utf-8") as file:
      print(words, file=file, flush=True)
      faulthandler.dump_traceback(file)
    hanging.cancel()
    if self._several:
      coordination.shutdown(EXIT_HUNG, words)
    os._exit(EXIT_HUNG)
