"""Processes that fill batches in memory that they share with this one.

Grain's own processes make fresh shared memory for each batch, which costs as much as decoding it, and import JAX.
Here this process hands out the memory together with the work, and again once nothing refers to the batch any more.
Its pages have no name: none is left behind, however a run ends, and a container's small /dev/shm does not matter.

Worker processes import neither JAX nor TensorFlow nor Grain, and leave signals to this process: they end with it.
"""

import collections
import dataclasses
import mmap
import multiprocessing
import os
import pickle
import signal
import tempfile
import traceback
import weakref
from collections.abc import Iterator, Sequence
from multiprocessing import connection, reduction, util
from typing import Any

import numpy as np

from clipvip_jax.input_pipeline import preprocessing
from clipvip_jax.input_pipeline.batching import Arrays, ClipBatcher, size, views
from clipvip_jax.utils.errors import UserError

# Batches that a worker has to do: the one that it fills, and the next, so that it never waits for this process.
_AHEAD = 2
_EXIT_SECONDS = 5.0  # that a process which closed its connection may take to end

# One step's share of work: which source, and its (epoch, record).
Task = tuple[int, list[tuple[int, int]]]


@dataclasses.dataclass
class _Memory:
  """A piece of shared memory; `sent` tells whether its worker has it."""

  number: int
  file: int
  buffer: mmap.mmap
  sent: bool = False


class _Worker:
  """A worker process and the memory that it fills."""

  def __init__(self, context: Any, name: str, sources: bytes):
    self._connection, there = context.Pipe()
    self._process = context.Process(target=_work, args=(there, sources), name=name, daemon=True)
    self._process.start()
    # At exit too: it would wait for its next task for ever, and the interpreter for it.
    self._ended: list[bool] = []
    util.Finalize(self, _kill, args=(self._process, self._ended), exitpriority=10)
    there.close()
    self._free: dict[int, list[_Memory]] = collections.defaultdict(list)  # by bytes
    self._count = 0
    self._asked: collections.deque[tuple[_Memory, int, Any]] = collections.deque()

  def ask(self, task: Task, layout: Any) -> None:
    """Sends a task; its arrays will have that layout."""
    wanted = size(layout)
    free = self._free[wanted]
    memory = free.pop() if free else self._new_memory(wanted)
    self._asked.append((memory, wanted, layout))
    try:
      self._connection.send((task, memory.number, None if memory.sent else wanted))
      if not memory.sent:
        reduction.send_handle(self._connection, memory.file, self._process.pid)
        os.close(memory.file)  # the mapping and the worker hold it
        memory.sent = True
    except OSError:
      pass  # it has ended, which `take` says

  def take(self) -> Arrays:
    """The arrays of the oldest task. Raises what the worker raised, or UserError where it has ended."""
    connection.wait([self._connection, self._process.sentinel])
    try:
      error = self._connection.recv()
    except (EOFError, OSError):
      self._process.join(_EXIT_SECONDS)
      raise UserError(
        f"data worker {self._process.name} ended unexpectedly with exit code {self._process.exitcode}; -9 means that it"
        " was killed, mostly for want of memory: try fewer host.num_workers, or a smaller batch"
      ) from None
    if error is not None:
      raise error
    memory, wanted, layout = self._asked.popleft()
    array = np.frombuffer(memory.buffer, np.uint8)
    # Every array of the batch refers to this one, whoever holds it: JAX as well, which need not copy on a CPU.
    weakref.finalize(array, self._free[wanted].append, memory).atexit = False
    return views(array, layout)

  def end(self) -> None:
    """Ends the process at once: nothing that it does outlives it."""
    self._connection.close()
    if not self._ended:  # an iterator that is left open comes here when the interpreter, `_kill` with it, is half gone
      _kill(self._process, self._ended)

  def _new_memory(self, wanted: int) -> _Memory:
    file = _anonymous_file()
    try:
      os.posix_fallocate(file, 0, wanted) if hasattr(os, "posix_fallocate") else os.ftruncate(file, wanted)
    except OSError as error:
      os.close(file)
      raise UserError(
        f"no memory for another batch of {wanted / 2**20:.0f} MiB ({error.strerror}): try fewer host.num_workers, or a"
        " smaller batch"
      ) from error
    self._count += 1
    return _Memory(self._count, file, mmap.mmap(file, wanted))


def _kill(process: Any, ended: list[bool]) -> None:
  """Ends a process and notes it."""
  ended.append(True)
  process.kill()
  process.join()


def _anonymous_file() -> int:
  if hasattr(os, "memfd_create"):
    return os.memfd_create("clipvip_jax_batch")
  with tempfile.TemporaryFile() as file:
    return os.dup(file.fileno())


def run(tasks: Sequence[Task], sources: Sequence[ClipBatcher], count: int) -> Iterator[Arrays]:
  """The tasks' batches in their order, filled by `count` processes in turn.

  Raises:
    UserError: a record that cannot be read, no memory, or a process that was killed.
  """
  context = multiprocessing.get_context("spawn")
  pickled = pickle.dumps(list(sources))
  workers = [_Worker(context, str(i), pickled) for i in range(count)]

  def ask(step):
    if step < len(tasks):
      source, slots = tasks[step]
      workers[step % count].ask((source, slots), sources[source].layout(len(slots)))

  try:
    for step in range(min(_AHEAD * count, len(tasks))):
      ask(step)
    for step in range(len(tasks)):
      arrays = workers[step % count].take()
      ask(step + _AHEAD * count)
      yield arrays
      del arrays  # else its memory would stay taken while the next batch is waited for
  finally:
    for worker in workers:
      worker.end()


def _work(there: Any, pickled: bytes) -> None:
  """A worker process: fills what it is asked for until the connection closes."""
  for ending in (signal.SIGINT, signal.SIGTERM):
    signal.signal(ending, signal.SIG_IGN)
  preprocessing.limit_threads()
  memories: dict[int, mmap.mmap] = {}
  sources: list[ClipBatcher] = pickle.loads(pickled)
  try:
    while True:
      (source, slots), number, new = there.recv()
      if new is not None:
        file = reduction.recv_handle(there)
        memories[number] = mmap.mmap(file, new)
        os.close(file)
      there.send(_fill(sources[source], slots, memories[number]))
  except (EOFError, OSError):
    return  # the other process has ended, or wants no more


def _fill(clips: ClipBatcher, slots: list[tuple[int, int]], memory: mmap.mmap) -> Exception | None:
  """Fills a batch; gives the error that stopped it, with its traceback as a note, since that does not travel."""
  try:
    clips.batch(slots, views(np.frombuffer(memory, np.uint8), clips.layout(len(slots))))
  except Exception as error:
    error.add_note(traceback.format_exc())
    try:
      pickle.loads(pickle.dumps(error))
    except Exception:
      return RuntimeError(traceback.format_exc())
    return error
  return None
