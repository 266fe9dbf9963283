"""Rate limit, pauses and delays."""

import asyncio
import time

from clipvip_jax.captioning.pacing import Pace, retry_delay


def start_times(pace, count):
  async def wait():
    await pace.wait()
    return time.monotonic()

  async def gather():
    return await asyncio.gather(*(wait() for _ in range(count)))

  start = time.monotonic()
  return [moment - start for moment in sorted(asyncio.run(gather()))]


def test_requests_are_spaced_evenly():
  times = start_times(Pace(60 / 0.02), 6)
  assert all(moment >= 0.02 * index for index, moment in enumerate(times))


def test_without_a_limit_nothing_waits_but_for_a_pause():
  assert start_times(Pace(0), 100)[-1] < 1
  pace = Pace(0)
  pace.pause(0.1)
  assert 0.1 <= start_times(pace, 3)[0] < 5


def test_a_pause_has_a_limit():
  pace = Pace(0)
  pace.pause(1e9)
  assert pace.paused_until <= time.monotonic() + 600


def test_delays_double_up_to_a_minute():
  for attempt, most in enumerate((0.5, 1, 2, 4, 8, 16, 32, 60, 60)):
    delays = [retry_delay(attempt) for _ in range(100)]
    assert most / 2 <= min(delays) and max(delays) <= most
    assert len(set(delays)) > 50  # random
