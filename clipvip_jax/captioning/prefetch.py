"""Draws items in a thread, a few ahead of the event loop that sends them."""

import asyncio
import contextlib
import queue
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Generic, TypeVar

Item = TypeVar("Item")

_POLL_SECONDS = 0.05  # until the thread notices that nothing more is wanted


class Prefetch(Generic[Item]):
  """Items of an iterator, for one event loop. Use it as an async context manager.

  A call into a thread for each item would wait for the interpreter's lock, which a busy event loop holds.
  """

  def __init__(self, items: Iterator[Item], ahead: int):
    """Args: `items` are drawn in the thread; `ahead` is the most that wait."""
    self._items = items
    self._queue: queue.Queue[Item | BaseException | None] = queue.Queue(ahead)
    self._stopped, self._lock, self._ended = threading.Event(), asyncio.Lock(), False
    self._thread = threading.Thread(target=self._draw, name="prefetch", daemon=True)

  async def next(self) -> Item | None:
    """Returns the next item; None at the end. Raises the error of the iterator. Several tasks may call it."""
    async with self._lock:  # one thread waits
      if self._ended:
        return None
      try:
        item = self._queue.get_nowait()
      except queue.Empty:
        item = await asyncio.to_thread(self._queue.get)
      self._ended = item is None
    if isinstance(item, BaseException):
      raise item
    return item

  async def __aenter__(self) -> "Prefetch[Item]":
    self._thread.start()
    return self

  async def __aexit__(
    self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
  ) -> None:
    """Ends the thread; the iterator is not drawn from afterwards."""
    self._stopped.set()
    while self._thread.is_alive():  # it may wait for a decoder
      with contextlib.suppress(queue.Empty):
        self._queue.get_nowait()
      await asyncio.sleep(_POLL_SECONDS / 5)
    self._put(None)  # for a call of `next` that was cancelled, whose thread still waits

  def _draw(self) -> None:
    last: BaseException | None = None
    try:
      for item in self._items:
        if self._stopped.is_set() or not self._put(item):
          return
    except BaseException as error:
      last = error
    self._put(last)

  def _put(self, item: Item | BaseException | None) -> bool:
    """Returns whether the item was taken into the queue."""
    while True:
      try:
        self._queue.put(item, timeout=_POLL_SECONDS)
        return True
      except queue.Full:
        if self._stopped.is_set():
          return False
