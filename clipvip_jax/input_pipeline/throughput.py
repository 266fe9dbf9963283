"""Measures how many clips per second the input pipeline delivers."""

import dataclasses
import time
from typing import Any

from clipvip_jax.input_pipeline.batching import PADDING, ClipBatcher
from clipvip_jax.input_pipeline.corpus import Corpus
from clipvip_jax.input_pipeline.load_tokenizer import load_tokenizer
from clipvip_jax.input_pipeline.pipeline import RecordSampler, WeightedStream, iterate_batches
from clipvip_jax.utils.errors import UserError


@dataclasses.dataclass(frozen=True)
class Throughput:
  """`clips` delivered in `seconds`, after worker processes have started."""

  clips: int
  seconds: float

  @property
  def clips_per_second(self) -> float:
    """The rate, of this process alone."""
    return self.clips / self.seconds


def training_batcher(
  corpus: Corpus, split: str, num_frames: int = 12, image_size: int = 224, **settings: Any
) -> ClipBatcher:
  """Returns a batcher with training's settings: jittered frames and the fields `subtitle` and `caption`.

  Args:
    corpus: holds the records.
    split: of the corpus.
    num_frames: per clip.
    image_size: in pixels.
    **settings: other fields of `ClipBatcher`, as `pixels`.

  Raises:
    UserError: the corpus has no such split or fields.
  """
  fields = {"subtitle": "subtitle", "caption": "caption"}
  corpus.check_fields(split, list(fields))
  records, tokenizer = corpus.records(split), load_tokenizer("clip")
  return ClipBatcher(records, tokenizer, fields, num_frames, image_size, 70, jitter_seed=0, **settings)


def measure_throughput(
  batcher: ClipBatcher, batch_size: int = 16, num_workers: int = 0, seconds: float = 5.0
) -> Throughput:
  """Loads and discards shuffled batches.

  Args:
    batcher: of a corpus; epochs repeat.
    batch_size: clips per batch.
    num_workers: worker processes; 0 loads in threads.
    seconds: minimum duration of the measurement, without the start-up.

  Raises:
    UserError: the split is empty, a number is too small, or a record is corrupt.
  """
  for name, value, minimum in (("batch_size", batch_size, 1), ("num_workers", num_workers, 0), ("seconds", seconds, 0)):
    if value < minimum:
      raise UserError(f"{name}={value} must be at least {minimum}")
  if not len(batcher.records):
    raise UserError("the split has no records to measure; choose another split")
  sampler = RecordSampler(len(batcher.records), batch_size, seed=0)
  batches = iterate_batches([WeightedStream(batcher, sampler)], num_steps=2**40, num_workers=num_workers)
  for _ in range(2 * max(1, num_workers)):  # until all workers run and their memory is allocated
    next(batches)
  clips, started = 0, time.perf_counter()
  while (elapsed := time.perf_counter() - started) < seconds or not clips:
    clips += int((next(batches)["record"] != PADDING).sum())
  return Throughput(clips, max(elapsed, 1e-9))
