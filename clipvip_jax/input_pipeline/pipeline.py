"""Records -> batches of arrays, of one source or of several in turn.

The order and the randomness of a record follow from (seed, epoch, record) alone, and the source of a step from the
step, so any number of worker processes and of hosts gives the same global batches, and the position is one number: how
many steps were taken.

Letters: B batch of this process.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import grain
import numpy as np
from grain.experimental import index_shuffle

from clipvip_jax.input_pipeline import workers
from clipvip_jax.input_pipeline.batching import Arrays, ClipBatcher
from clipvip_jax.input_pipeline.mixture import schedule
from clipvip_jax.utils.errors import UserError

# Chooses subsets, for every run alike.
_SUBSET_SEED = 0
# Enough to mix the bits of an index; see grain's index_shuffle.
_SHUFFLE_ROUNDS = 4
_THREADS = _BUFFERED_BATCHES = 2


@dataclasses.dataclass(frozen=True)
class RecordSampler:
  """Which record stands where. A last batch that is not full is padded with no record, -1, instead of dropped.

  Attributes:
    num_records: that are shown.
    batch_size: global, over all processes.
    seed: shuffles anew every epoch; None keeps the records' own order.
    subset_of: records of the split, where fewer are shown: a random choice that is the same for every seed, and in
      which a smaller one is part of a larger one; 0: all are shown.
  """

  num_records: int
  batch_size: int
  seed: int | None = None
  subset_of: int = 0

  @property
  def steps_per_epoch(self) -> int:
    """Global batches that show every record once."""
    return -(-self.num_records // self.batch_size)

  def records(self, step: int, first_slot: int, count: int) -> list[tuple[int, int]]:
    """(epoch, record) in each of `count` slots of a step's global batch; record -1 is padding."""
    epoch, step = divmod(step, self.steps_per_epoch)
    first = step * self.batch_size + first_slot
    indices = [index if index < self.num_records else -1 for index in range(first, first + count)]
    if self.seed is not None:
      seed = int(np.random.SeedSequence((self.seed, epoch)).generate_state(1)[0])
      last = self.num_records - 1
      indices = [i if i < 0 else index_shuffle(i, last, seed, _SHUFFLE_ROUNDS) for i in indices]
    if self.subset_of > self.num_records:
      last = self.subset_of - 1
      indices = [i if i < 0 else index_shuffle(i, last, _SUBSET_SEED, _SHUFFLE_ROUNDS) for i in indices]
    return [(epoch, index) for index in indices]


@dataclasses.dataclass(frozen=True)
class WeightedStream:
  """Where batches come from: how its records become arrays, in which order, and how often it has its turn."""

  clips: ClipBatcher
  order: RecordSampler
  weight: float = 1.0


class Tasks(Sequence):
  """What this process has to load for every step from the first on: (source, its (epoch, record))."""

  def __init__(
    self, sources: Sequence[WeightedStream], first_step: int, num_steps: int, share: tuple[int, int] = (0, 1)
  ):
    """`share`: which of how many equal shares of every global batch."""
    self._orders = [source.order for source in sources]
    self._weights = [source.weight for source in sources]
    self._first_step, self._num_steps, self._share = first_step, num_steps, share

  def __len__(self):
    return max(0, self._num_steps - self._first_step)

  def turn(self, i: int) -> tuple[int, int]:
    """(source, which of its batches it is)."""
    (source,), (step,) = (found.tolist() for found in schedule(self._weights, self._first_step + i, 1))
    return source, step

  def __getitem__(self, i) -> workers.Task:
    source, step = self.turn(i)
    index, count = self._share
    size = self._orders[source].batch_size // count
    return source, self._orders[source].records(step, index * size, size)


def batches(
  sources: Sequence[WeightedStream],
  *,
  num_steps: int,
  first_step: int = 0,
  num_workers: int = 0,
  share: tuple[int, int] = (0, 1),
) -> Iterator[Arrays]:
  """This process' share of the global batches first_step, ..., num_steps - 1, in order.

  Args:
    sources: one, or several that take turns by their weights; each batch is of one of them.
    num_steps: of the whole run.
    first_step: the position to go on from.
    num_workers: processes that load data, without TensorFlow or an accelerator; 0: threads of this one.
    share: which of how many equal shares of every batch this process loads.

  Returns:
    The arrays of `Clips.layout`, and `source` [B], the position in `sources`.

  Raises:
    UserError: a batch that the processes cannot share evenly; while iterating, a record that cannot be read.
  """
  for source in sources:
    if source.order.batch_size % share[1]:
      raise UserError(f"a batch of {source.order.batch_size} cannot be parted into {share[1]} shares")
  tasks = Tasks(sources, first_step, num_steps, share)
  clips = [source.clips for source in sources]
  found = workers.run(tasks, clips, num_workers) if num_workers else _threads(tasks, clips)
  return _with_source(found, tasks)


def _threads(tasks: Sequence[workers.Task], clips: Sequence[ClipBatcher]) -> Iterator[Arrays]:
  """The tasks' batches, each filled by a thread of this process."""
  options = grain.ReadOptions(num_threads=_THREADS, prefetch_buffer_size=_BUFFERED_BATCHES)
  dataset = grain.MapDataset.source(tasks).map(lambda task: clips[task[0]].batch(task[1]))
  return iter(dataset.to_iter_dataset(options))


def _with_source(found: Iterator[Arrays], tasks: Tasks) -> Iterator[Arrays]:
  for i, arrays in enumerate(found):
    yield {**arrays, "source": np.full(len(arrays["record"]), tasks.turn(i)[0])}
    del arrays  # a worker's memory is free again once nobody refers to it
