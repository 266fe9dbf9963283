"""Training speed, time spent waiting for data, and time left."""

import time
from collections.abc import Mapping

from clipvip_jax.utils.progress import format_duration


class StepTimer:
  """Measures training between two reports. The first step, which compiles, is excluded."""

  def __init__(self, first_step: int, total_steps: int, batch_size: int):
    """Args: `first_step` is the number of updates done, `batch_size` the global one."""
    self._total_steps, self._batch_size = total_steps, batch_size
    self._start_time: float | None = None
    self._start_step = first_step
    self._last_time, self._last_step = 0.0, first_step
    self._data_wait = 0.0

  def add_data_wait(self, seconds: float) -> None:
    """Adds time that a step waited for its batch."""
    self._data_wait += seconds

  def add_pause(self, seconds: float) -> None:
    """Adds time of an evaluation or a checkpoint: it counts for the time left, not for the training speed."""
    self._last_time += seconds

  def finish_step(self, step: int) -> None:
    """Starts the clock after the first step."""
    if self._start_time is None:
      self._start_time = self._last_time = time.monotonic()
      self._start_step = self._last_step = step
      self._data_wait = 0.0

  def report(self, step: int) -> dict[str, float]:
    """Returns `clips_per_second` and `data_wait` (fraction of the time) since the last report, and `seconds_left`."""
    now = time.monotonic()
    start_time = now if self._start_time is None else self._start_time
    elapsed = max(now - self._last_time, 1e-9)
    num_steps, num_steps_since_start = step - self._last_step, max(step - self._start_step, 1)
    speed = {
      "clips_per_second": num_steps * self._batch_size / elapsed,
      "data_wait": min(self._data_wait / elapsed, 1.0),
      "seconds_left": (now - start_time) / num_steps_since_start * (self._total_steps - step),
    }
    self._last_time, self._last_step, self._data_wait = now, step, 0.0
    return speed

  def format_line(self, step: int, loss: float, speed: Mapping[str, float]) -> str:
    """Formats a log line from a `report`: `step 120/1000 | loss 3.214 | 171.2 clips/s | ... | 5m12s left`."""
    prefix = f"step {step}/{self._total_steps} | loss {loss:.4f} | "
    if not speed["clips_per_second"]:
      return f"{prefix}compiled"
    return (
      f"{prefix}{speed['clips_per_second']:.1f} clips/s | waiting for data {speed['data_wait']:.0%} | "
      f"{format_duration(speed['seconds_left'])} left"
    )
