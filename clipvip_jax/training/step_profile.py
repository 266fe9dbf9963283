"""Profiles of training steps: traces of `jax.profiler` in the workdir."""

import contextlib
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax

from clipvip_jax.runs.run_folder import RunFolder
from clipvip_jax.utils.errors import UserError, first_line
from clipvip_jax.utils.log import log

FOLDER = "profile"  # in the workdir


def parse_steps(text: str, total_steps: int) -> range:
  """Parses `host.profile_steps`: "10-15" for steps 10 to 15, "10" for one step, "" for none.

  Args:
    text: the value of the field.
    total_steps: updates of the complete run.

  Raises:
    UserError: it has another form, or the run has fewer steps.
  """
  if not text:
    return range(0)
  match = re.fullmatch(r"(\d{1,10})(?:-(\d{1,10}))?", text, re.ASCII)
  first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
  if not 1 <= first <= last:
    raise UserError(f'host.profile_steps={text!r} is not a range of steps; use FIRST-LAST, as in "10-15", or ""')
  if last > total_steps:
    raise UserError(
      f"host.profile_steps={text!r} exceeds the {total_steps} steps of the run; use at most {total_steps}"
    )
  return range(first, last + 1)


class StepProfiler:
  """Traces a range of steps on process 0. `close` ends a trace that an interruption cuts short.

  A trace that fails is a warning: a run does not end for it.
  """

  def __init__(self, steps: range, folder: RunFolder, first_step: int, add_pause: Callable[[float], None]):
    """Traces nothing yet.

    Args:
      steps: to trace, counted from 1.
      folder: of the run.
      first_step: updates done.
      add_pause: receives the seconds that a trace takes to start and to be written.
    """
    self._steps = steps if jax.process_index() == 0 else range(0)
    self._folder, self._add_pause = folder, add_pause
    self._first = self._last = 0  # steps of the trace that is open; 0: none
    if done := [step for step in self._steps if step <= first_step]:
      log.warning("host.profile_steps: steps %d to %d are done and not traced", done[0], done[-1])
      self._steps = range(first_step + 1, self._steps.stop)

  def start_step(self, step: int, previous: Any) -> jax.profiler.StepTraceAnnotation:
    """Starts the trace before the first step of the range.

    Args:
      step: the next one, from 1.
      previous: arrays that earlier steps compute, which end before the trace begins.

    Returns:
      A context manager that marks the step in a trace.
    """
    if self._steps and step == self._steps[0]:
      jax.block_until_ready(previous)
      with self._timed():
        jax.profiler.start_trace(self._folder.path / FOLDER)
        self._first = step
    return jax.profiler.StepTraceAnnotation("train", step_num=step)

  def finish_step(self, step: int, results: Any) -> None:
    """Writes the trace after the last step of the range. `results`: arrays that the step computes."""
    self._last = step
    if self._first and step == self._steps[-1]:
      jax.block_until_ready(results)
      self.close()

  def close(self) -> None:
    """Writes a trace that is open."""
    if not self._first:
      return
    first, self._first = self._first, 0
    with self._timed():
      jax.profiler.stop_trace()
      log.info(
        "traced steps %d to %d; to see them: pip install xprof, then xprof --logdir=%s/%s",
        first,
        self._last,
        self._folder.address,
        FOLDER,
      )
      self._folder.request_upload()

  @contextlib.contextmanager
  def _timed(self) -> Iterator[None]:
    """Adds the time of a block to the pauses of the run, and warns where it fails."""
    started = time.monotonic()
    try:
      yield
    except (OSError, RuntimeError) as error:  # another trace in this process, or a disk that is full
      log.warning("host.profile_steps: no trace is written (%s); the run continues", first_line(error))
    self._add_pause(time.monotonic() - started)
