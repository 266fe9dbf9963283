"""Worker processes that fill batches in shared memory, which is reused.

Grain's worker processes allocate shared memory for each array of each batch, which costs as much as decoding it, and
import JAX (`python -m benchmarks.workers` compares the two). Here the main process owns the memory, sends it along with
a task, and reuses it once no array refers to the batch any more. The memory is anonymous: nothing remains in /dev/shm
after a crash, and a container's limit on /dev/shm does not apply.

Worker processes import neither JAX nor TensorFlow nor Grain, ignore signals, and exit with the main process.
"""

import collections
import contextlib
import dataclasses
import math
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
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import NamedTuple, Protocol

import numpy as np

from clipvip_jax.input_pipeline import preprocessing
from clipvip_jax.input_pipeline.batching import ArraySpec, Batch, BatchSpec, ClipBatcher, RecordKey
from clipvip_jax.utils.errors import UserError

_TASKS_PER_WORKER = 2  # one in progress and one waiting, so that a worker never waits for the main process
_EXIT_TIMEOUT = 5.0  # seconds until a worker that closed its connection must have exited
_ALIGNMENT = 64  # bytes; the arrays of a batch start at multiples of it


class BatchTask(NamedTuple):
  """A batch to load: the index of its stream, and its records."""

  stream: int
  keys: Sequence[RecordKey]


class BatchTaskSequence(Protocol):
  """Tasks by index."""

  def __len__(self) -> int: ...

  def __getitem__(self, i: int, /) -> BatchTask: ...


def run(tasks: BatchTaskSequence, batchers: Sequence[ClipBatcher], num_workers: int) -> Iterator[Batch]:
  """Loads batches in worker processes.

  Args:
    tasks: the batches to load; task i is run by worker i mod num_workers.
    batchers: the batcher of each stream.
    num_workers: number of processes.

  Yields:
    The batch of each task, in order.

  Raises:
    UserError: a record is corrupt, memory is exhausted, or a worker process died.
  """
  context = multiprocessing.get_context("spawn")
  pickled_batchers = pickle.dumps(list(batchers))
  workers = [_Worker(context, str(i), pickled_batchers) for i in range(num_workers)]

  def submit(i: int) -> None:
    if i < len(tasks):
      task = tasks[i]
      workers[i % num_workers].submit(task, batchers[task.stream].spec(len(task.keys)))

  try:
    for i in range(min(_TASKS_PER_WORKER * num_workers, len(tasks))):
      submit(i)
    for i in range(len(tasks)):
      batch = workers[i % num_workers].receive()
      submit(i + _TASKS_PER_WORKER * num_workers)
      yield batch
      del batch  # releases its memory before the next batch is waited for
  finally:
    for worker in workers:
      worker.close()


@dataclasses.dataclass
class _SharedMemory:
  """Memory that is mapped here, and in the worker once `sent`."""

  number: int
  file: int
  buffer: mmap.mmap
  sent: bool = False


class _Worker:
  """A worker process and the shared memory that it fills."""

  def __init__(self, context: SpawnContext, name: str, pickled_batchers: bytes):
    self._connection, worker_end = context.Pipe()
    self._process = context.Process(target=_worker_main, args=(worker_end, pickled_batchers), name=name, daemon=True)
    self._process.start()
    # Kills the process when the interpreter exits, too: it would wait for a task, and the interpreter for the process.
    self._killed: list[bool] = []
    util.Finalize(self, _kill, args=(self._process, self._killed), exitpriority=10)
    worker_end.close()
    self._free: dict[int, list[_SharedMemory]] = collections.defaultdict(list)  # by size in bytes
    self._num_allocated = 0
    self._pending: collections.deque[tuple[_SharedMemory, int, BatchSpec]] = collections.deque()

  def submit(self, task: BatchTask, spec: BatchSpec) -> None:
    """Sends a task whose batch has the given spec."""
    size = _buffer_size(spec)
    free = self._free[size]
    memory = free.pop() if free else self._allocate(size)
    self._pending.append((memory, size, spec))
    with contextlib.suppress(OSError):  # the process died, which `receive` reports
      self._connection.send((task, memory.number, None if memory.sent else size))
      if not memory.sent:
        reduction.send_handle(self._connection, memory.file, self._process.pid)
        os.close(memory.file)  # the mappings keep the memory alive
        memory.sent = True

  def receive(self) -> Batch:
    """Returns the batch of the oldest task. Raises the worker's exception, or UserError if the process died."""
    connection.wait([self._connection, self._process.sentinel])
    try:
      error = self._connection.recv()
    except (EOFError, OSError):
      self._process.join(_EXIT_TIMEOUT)
      raise UserError(
        f"data worker {self._process.name} died with exit code {self._process.exitcode}; code -9 usually means that the"
        " system ran out of memory: reduce host.num_workers or the batch size"
      ) from None
    if error is not None:
      raise error
    memory, size, spec = self._pending.popleft()
    base = np.frombuffer(memory.buffer, np.uint8)
    # All arrays of the batch refer to `base`, also those that JAX aliases on CPUs; the memory is free when it dies.
    weakref.finalize(base, self._free[size].append, memory).atexit = False
    return _arrays_in_buffer(base, spec)

  def close(self) -> None:
    """Kills the process."""
    self._connection.close()
    if not self._killed:  # at interpreter exit, `_kill` has run already and its globals may be gone
      _kill(self._process, self._killed)

  def _allocate(self, size: int) -> _SharedMemory:
    file = _anonymous_file()
    try:
      os.posix_fallocate(file, 0, size) if hasattr(os, "posix_fallocate") else os.ftruncate(file, size)
    except OSError as error:
      os.close(file)
      raise UserError(
        f"cannot allocate {size / 2**20:.0f} MiB of shared memory for a batch ({error.strerror}); reduce"
        " host.num_workers or the batch size"
      ) from error
    self._num_allocated += 1
    return _SharedMemory(self._num_allocated, file, mmap.mmap(file, size))


def _kill(process: SpawnProcess, killed: list[bool]) -> None:
  killed.append(True)
  process.kill()
  process.join()


def _anonymous_file() -> int:
  """Returns a file descriptor of memory without a name."""
  if hasattr(os, "memfd_create"):
    return os.memfd_create("clipvip_jax_batch")
  with tempfile.TemporaryFile() as file:
    return os.dup(file.fileno())


def _buffer_size(spec: BatchSpec) -> int:
  """Returns the bytes that `_arrays_in_buffer` needs."""
  return sum(_aligned_size(array) for array in spec.values())


def _arrays_in_buffer(buffer: np.ndarray, spec: BatchSpec) -> Batch:
  """Returns the arrays of a batch as consecutive views of a uint8 buffer."""
  arrays, start = {}, 0
  for name, array in spec.items():
    arrays[name] = buffer[start : start + _size(array)].view(array.dtype).reshape(array.shape)
    start += _aligned_size(array)
  return arrays


def _size(array: ArraySpec) -> int:
  return math.prod(array.shape) * np.dtype(array.dtype).itemsize


def _aligned_size(array: ArraySpec) -> int:
  return -(-_size(array) // _ALIGNMENT) * _ALIGNMENT


def _worker_main(main_end: connection.Connection, pickled_batchers: bytes) -> None:
  """Entry point of a worker process: runs tasks until the connection closes."""
  for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)  # the main process handles them
  preprocessing.limit_threads()
  memories: dict[int, mmap.mmap] = {}
  batchers: list[ClipBatcher] = pickle.loads(pickled_batchers)
  try:
    while True:
      task, number, new_size = main_end.recv()
      if new_size is not None:
        file = reduction.recv_handle(main_end)
        memories[number] = mmap.mmap(file, new_size)
        os.close(file)
      main_end.send(_fill(batchers[task.stream], task.keys, memories[number]))
  except (EOFError, OSError):
    return  # the main process exited or closed the connection


def _fill(batcher: ClipBatcher, keys: Sequence[RecordKey], memory: mmap.mmap) -> Exception | None:
  """Fills a batch. Returns an exception that was raised, with its traceback as a note: tracebacks do not pickle."""
  try:
    batcher.batch(keys, _arrays_in_buffer(np.frombuffer(memory, np.uint8), batcher.spec(len(keys))))
  except Exception as error:
    error.add_note(traceback.format_exc())
    try:
      pickle.loads(pickle.dumps(error))
    except Exception:
      return RuntimeError(traceback.format_exc())
    return error
  return None
