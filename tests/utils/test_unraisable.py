"""Exceptions in callbacks: which of them are printed."""

import asyncio
import gc
import sys

import tensorstore

from clipvip_jax.utils import unraisable


async def start(future):
  """Leaves a task that waits for a write of TensorStore."""

  async def wait():
    await future

  task = asyncio.ensure_future(wait())
  await asyncio.sleep(0)
  return task


class Own:
  """An object of this program that uses a closed event loop when it is deleted."""

  def __init__(self, loop):
    self.loop = loop

  def __del__(self):
    self.loop.call_soon_threadsafe(print)


def test_only_late_callbacks_of_libraries_are_ignored(monkeypatch):
  reported = []
  monkeypatch.setattr(sys, "unraisablehook", lambda lost: reported.append(str(lost.exc_value)))
  promises, tasks = [], []
  for _ in range(2):
    promise, future = tensorstore.Promise.new()
    loop = asyncio.new_event_loop()
    tasks.append(loop.run_until_complete(start(future)))  # as Orbax does after the first error of several writes
    loop.close()
    promises.append(promise)
  promises[0].set_result(None)
  assert reported == ["Event loop is closed"], "TensorStore reports it"
  for _ in range(2):
    unraisable.handle(unraisable.is_late_callback)
  promises[1].set_result(None)
  assert len(reported) == 1, "and nobody prints it"
  Own(loop)
  assert reported == ["Event loop is closed"] * 2, "that of the program is printed"
  tasks.clear()
  gc.collect()  # before the end of the interpreter, where asyncio prints what it deletes
