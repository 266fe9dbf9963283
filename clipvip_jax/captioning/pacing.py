"""When requests may be sent: a rate limit, pauses that an endpoint asks for, and delays before a retry."""

import asyncio
import random
import time

_FIRST_DELAY, _MAX_DELAY = 0.5, 60.0  # seconds before the first retry, and before any other
_MAX_PAUSE = 600.0  # seconds that an endpoint may ask for


class Pace:
  """Spaces requests evenly in time. Belongs to one event loop."""

  def __init__(self, per_minute: float):
    """Args: `per_minute` is the rate limit; 0 for none."""
    self._interval = 60.0 / per_minute if per_minute else 0.0
    self._next = 0.0

  async def wait(self) -> None:
    """Waits until the next request may be sent."""
    now = time.monotonic()
    start = max(now, self._next)
    self._next = start + self._interval
    if start > now:
      await asyncio.sleep(start - now)

  def pause(self, seconds: float) -> None:
    """Sends no request for some seconds, at most ten minutes: the endpoint asked for it."""
    self._next = max(self._next, time.monotonic() + min(seconds, _MAX_PAUSE))

  @property
  def paused_until(self) -> float:
    """Time of the next request, of `time.monotonic`."""
    return self._next


def retry_delay(attempt: int) -> float:
  """Returns the seconds before retry `attempt`, from 0: doubled each time, and random so that retries spread."""
  return random.uniform(0.5, 1.0) * min(_MAX_DELAY, _FIRST_DELAY * 2.0**attempt)
