"""Training and evaluation batches: shuffling, mixing, sharding over hosts, resuming.

The order of the records and all randomness follow from (seed, epoch, record), and the stream of a step from the step.
So global batches do not depend on the number of worker processes or hosts, and the only state to checkpoint is the
number of steps taken.

Letters: B batch of this host.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import grain
import numpy as np
from grain.experimental import index_shuffle

from clipvip_jax.input_pipeline import workers
from clipvip_jax.input_pipeline.batching import PADDING, Batch, ClipBatcher, RecordKey
from clipvip_jax.input_pipeline.mixture import stream_schedule
from clipvip_jax.input_pipeline.workers import BatchTask
from clipvip_jax.utils.errors import UserError

_SUBSET_SEED = 0  # the same subsets in every run
_SHUFFLE_ROUNDS = 4  # enough to mix the bits of an index; see Grain's index_shuffle
_THREADS = _PREFETCH_BATCHES = 2

# (index, count): one of `count` equal shards of each global batch.
Shard = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class RecordSampler:
  """The order in which records are visited. Pads the last batch of an epoch instead of dropping it.

  Attributes:
    num_records: records to visit in an epoch.
    batch_size: global, over all hosts.
    seed: shuffles each epoch differently; None keeps the records' order.
    subset_of: number of records in the split. If larger than num_records, visits a random subset, which is the same for
      every seed and contains all smaller ones. 0 visits the first `num_records` records.
  """

  num_records: int
  batch_size: int
  seed: int | None = None
  subset_of: int = 0

  @property
  def steps_per_epoch(self) -> int:
    """Number of global batches that contain every record once."""
    return -(-self.num_records // self.batch_size)

  def keys(self, step: int, offset: int, count: int) -> list[RecordKey]:
    """Returns `count` records of a step's global batch, from position `offset` on."""
    epoch, step = divmod(step, self.steps_per_epoch)
    first = step * self.batch_size + offset
    indices = [index if index < self.num_records else PADDING for index in range(first, first + count)]
    if self.seed is not None:
      seed = int(np.random.SeedSequence((self.seed, epoch)).generate_state(1)[0])
      indices = _permute(indices, self.num_records, seed)
    if self.subset_of > self.num_records:
      indices = _permute(indices, self.subset_of, _SUBSET_SEED)
    return [RecordKey(epoch, index) for index in indices]


def _permute(indices: list[int], size: int, seed: int) -> list[int]:
  """Applies a pseudorandom permutation of 0, ..., size - 1; keeps padding."""
  return [i if i == PADDING else index_shuffle(i, size - 1, seed, _SHUFFLE_ROUNDS) for i in indices]


@dataclasses.dataclass(frozen=True)
class WeightedStream:
  """A stream of batches: records, their order, and the stream's weight in a mixture."""

  batcher: ClipBatcher
  sampler: RecordSampler
  weight: float = 1.0


class BatchTasks:
  """The batches of a host, from a first step on: which stream, and which of its records."""

  def __init__(self, streams: Sequence[WeightedStream], first_step: int, num_steps: int, shard: Shard = (0, 1)):
    """Creates the tasks of the steps first_step, ..., num_steps - 1, for one shard of each global batch."""
    self._samplers = [stream.sampler for stream in streams]
    self._weights = [stream.weight for stream in streams]
    self._first_step, self._num_steps, self._shard = first_step, num_steps, shard

  def __len__(self) -> int:
    return max(0, self._num_steps - self._first_step)

  def stream_and_step(self, i: int) -> tuple[int, int]:
    """Returns the stream of task i, and the index of its batch within the stream."""
    (stream,), (step,) = (array.tolist() for array in stream_schedule(self._weights, self._first_step + i, 1))
    return stream, step

  def __getitem__(self, i: int) -> BatchTask:
    stream, step = self.stream_and_step(i)
    sampler, (index, count) = self._samplers[stream], self._shard
    size = sampler.batch_size // count
    return BatchTask(stream, sampler.keys(step, index * size, size))


def iterate_batches(
  streams: Sequence[WeightedStream],
  *,
  num_steps: int,
  first_step: int = 0,
  num_workers: int = 0,
  shard: Shard = (0, 1),
) -> Iterator[Batch]:
  """Iterates over a host's shard of the global batches first_step, ..., num_steps - 1.

  `distributed.sharding.shard_batch` assembles the hosts' shards into global arrays.

  Args:
    streams: one stream, or several to mix by their weights; each batch is from one of them.
    num_steps: steps of the complete run.
    first_step: the step to resume from.
    num_workers: worker processes; 0 loads data in threads of this process.
    shard: (index, count) of the shard; see `distributed.sharding.data_shard`.

  Yields:
    The arrays of `ClipBatcher.spec`, and `stream` [B], the index in `streams`.

  Raises:
    UserError: the batch size is not divisible by the number of shards; while iterating, a record is corrupt, or a
      worker process died.
  """
  for stream in streams:
    if stream.sampler.batch_size % shard[1]:
      raise UserError(
        f"a batch size of {stream.sampler.batch_size} is not divisible by {shard[1]} shards; use a multiple of"
        f" {shard[1]}"
      )
  tasks = BatchTasks(streams, first_step, num_steps, shard)
  batchers = [stream.batcher for stream in streams]
  batches = workers.run(tasks, batchers, num_workers) if num_workers else _load_in_threads(tasks, batchers)
  return _add_stream(batches, tasks)


def _load_in_threads(tasks: BatchTasks, batchers: Sequence[ClipBatcher]) -> Iterator[Batch]:
  options = grain.ReadOptions(num_threads=_THREADS, prefetch_buffer_size=_PREFETCH_BATCHES)
  dataset = grain.MapDataset.source(tasks).map(lambda task: batchers[task.stream].batch(task.keys))
  return iter(dataset.to_iter_dataset(options))


def _add_stream(batches: Iterator[Batch], tasks: BatchTasks) -> Iterator[Batch]:
  for i, batch in enumerate(batches):
    yield {**batch, "stream": np.full(len(batch["record"]), tasks.stream_and_step(i)[0])}
    del batch  # releases a worker's shared memory
