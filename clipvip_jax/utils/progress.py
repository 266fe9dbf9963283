"""Progress lines for long operations: items done, rate and estimated time left."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

from clipvip_jax.utils.log import log


def format_duration(seconds: float) -> str:
  """Formats a duration as `42s`, `3m05s` or `2h10m`."""
  seconds = round(seconds)
  if seconds < 60:
    return f"{seconds}s"
  minutes, seconds = divmod(seconds, 60)
  return f"{minutes}m{seconds:02d}s" if minutes < 60 else f"{minutes // 60}h{minutes % 60:02d}m"


class ProgressReporter:
  """Reports the progress of a fixed number of items, at most once per interval.

  In a loop, call `update` after each item:

    progress = ProgressReporter(len(videos), "videos")
    for done, video in enumerate(videos, 1):
      ...
      progress.update(done)

  Where the work happens in one blocking call, poll its progress from a thread:

    with ProgressReporter(len(shards), "shards").polling(count_finished_shards):
      build(shards)
  """

  def __init__(self, total: int, unit: str, report: Callable[[str], None] = log.info, *, interval: float = 10.0):
    """Starts the clock.

    Args:
      total: number of items.
      unit: plural noun for the items, as in "videos".
      report: receives each line.
      interval: seconds between two lines.
    """
    self._total, self._unit, self._report, self._interval = total, unit, report, interval
    self._started = self._last_report = time.monotonic()

  def update(self, done: int) -> None:
    """Reports `done` items if the last report is at least one interval old."""
    now = time.monotonic()
    if now - self._last_report >= self._interval:
      self._last_report = now
      self._report(self.line(done))

  def line(self, done: int) -> str:
    """Returns `120/1000 videos | 4.2 videos/s | 3m30s left`; the elapsed time while `done` is 0."""
    start, elapsed = f"{done}/{self._total} {self._unit}", max(time.monotonic() - self._started, 1e-9)
    if not done:
      return f"{start} | {format_duration(elapsed)} elapsed"
    rate = done / elapsed
    rate_text = f"{rate:.1f}" if rate >= 1 else f"{rate:.2g}"
    return f"{start} | {rate_text} {self._unit}/s | {format_duration((self._total - done) / rate)} left"

  def polling(self, count_done: Callable[[], int]) -> contextlib.AbstractContextManager[None]:
    """Reports from a background thread while the context is open.

    Args:
      count_done: returns the number of finished items; called once per interval, in the thread.
    """
    return report_periodically(lambda: self.line(count_done()), self._report, interval=self._interval)


@contextlib.contextmanager
def report_periodically(
  line: Callable[[], str], report: Callable[[str], None] = log.info, *, interval: float = 10.0
) -> Iterator[None]:
  """Reports `line()` every `interval` seconds from a background thread while the context is open."""
  finished = threading.Event()

  def report_until_finished() -> None:
    while not finished.wait(interval):
      report(line())

  thread = threading.Thread(target=report_until_finished, daemon=True)
  thread.start()
  try:
    yield
  finally:
    finished.set()
    thread.join()
