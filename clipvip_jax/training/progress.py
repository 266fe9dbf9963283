"""What a person sees while a run goes on: one line every few steps, and TensorBoard."""

import pathlib
import time
from collections.abc import Mapping
from typing import Any

from clipvip_jax.utils.progress import format_duration


class Progress:
  """Speed, share of time spent waiting for data, and time left.

  The first step is left out of the speed: it compiles.
  """

  def __init__(self, first_step: int, total_steps: int, batch_size: int):
    self._total, self._batch_size = total_steps, batch_size
    self._started: float | None = None
    self._start_step = first_step
    self._last_time, self._last_step = 0.0, first_step
    self._waited = 0.0

  def waited(self, seconds: float) -> None:
    """Time that a step waited for its batch."""
    self._waited += seconds

  def paused(self, seconds: float) -> None:
    """Time of an evaluation or a checkpoint: no part of the training speed, but of the time left."""
    self._last_time += seconds

  def step_done(self, step: int) -> None:
    """Starts the clock after the first step."""
    if self._started is None:
      self._started = self._last_time = time.monotonic()
      self._start_step = self._last_step = step
      self._waited = 0.0

  def report(self, step: int) -> dict[str, float]:
    """Since the last report: `clips_per_second`, `data_wait` (a share of the time), `seconds_left` (of the run)."""
    now = time.monotonic()
    started = now if self._started is None else self._started
    elapsed = max(now - self._last_time, 1e-9)
    steps, all_steps = step - self._last_step, max(step - self._start_step, 1)
    numbers = {
      "clips_per_second": steps * self._batch_size / elapsed,
      "data_wait": min(self._waited / elapsed, 1.0),
      "seconds_left": (now - started) / all_steps * (self._total - step),
    }
    self._last_time, self._last_step, self._waited = now, step, 0.0
    return numbers

  def line(self, step: int, loss: float, numbers: Mapping[str, float]) -> str:
    """`step 120/1000 | loss 3.214 | 171.2 clips/s | waiting for data 2% | 5m12s left`."""
    start = f"step {step}/{self._total} | loss {loss:.4f} | "
    if not numbers["clips_per_second"]:
      return f"{start}compiled"
    return (
      f"{start}{numbers['clips_per_second']:.1f} clips/s | waiting for data {numbers['data_wait']:.0%} | "
      f"{format_duration(numbers['seconds_left'])} left"
    )


def tensorboard_writer(workdir: pathlib.Path, *, write: bool) -> Any:
  """A clu writer of TensorBoard files; one that only logs, where `write` is false.

  clu writes through TensorFlow, which takes seconds to import and would take the GPU's memory.
  """
  from clu import metric_writers

  if not write:
    return metric_writers.LoggingWriter()
  import tensorflow as tf

  tf.config.set_visible_devices([], "GPU")
  return metric_writers.AsyncWriter(metric_writers.SummaryWriter(str(workdir)))
