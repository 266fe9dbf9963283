"""Items drawn in a thread: order, how far ahead, errors, and an early end."""

import asyncio
import threading

import pytest

from clipvip_jax.captioning.prefetch import Prefetch
from clipvip_jax.utils.errors import UserError


async def drain(frames, ahead=4):
  drawn = []
  async with Prefetch(frames, ahead) as prefetch:
    while (frame := await prefetch.next()) is not None:
      drawn.append(frame)
  return drawn


def frames(count, drawn=None, error=None):
  for number in range(count):
    if drawn is not None:
      drawn.append((number, threading.current_thread().name))
    yield number, b"jpeg"
  if error:
    raise error


def test_all_frames_arrive_in_order_from_another_thread():
  drawn = []
  assert asyncio.run(drain(frames(100, drawn))) == [(number, b"jpeg") for number in range(100)]
  assert drawn == [(number, "prefetch") for number in range(100)]
  assert asyncio.run(drain(frames(0))) == []


def test_an_error_arrives_after_the_frames_before_it():
  async def run():
    async with Prefetch(frames(2, error=UserError("corrupt")), 1) as prefetch:
      assert [(await prefetch.next())[0] for _ in range(2)] == [0, 1]
      with pytest.raises(UserError, match="corrupt"):
        await prefetch.next()

  asyncio.run(run())


def test_an_early_end_stops_the_thread_within_its_limit():
  drawn, source = [], None

  async def run():
    async with Prefetch(source, 3) as prefetch:
      await prefetch.next()

  source = frames(1000, drawn)
  asyncio.run(run())
  source.close()  # possible only if no thread draws from it
  assert 1 <= len(drawn) <= 10


def test_a_cancelled_call_does_not_keep_the_event_loop():
  release = threading.Event()

  def slow():
    release.wait(5)
    yield 0, b""

  async def run():
    async with Prefetch(slow(), 1) as prefetch:
      with pytest.raises(TimeoutError):
        await asyncio.wait_for(prefetch.next(), 0.05)
      release.set()

  asyncio.run(asyncio.wait_for(run(), 10))
