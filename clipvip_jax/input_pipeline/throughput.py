"""How many clips a second a corpus gives: whether data will keep up with an accelerator."""

import dataclasses
import time

from clipvip_jax.input_pipeline.batching import ClipBatcher
from clipvip_jax.input_pipeline.corpus import Corpus
from clipvip_jax.input_pipeline.pipeline import RecordSampler, WeightedStream, batches
from clipvip_jax.input_pipeline.tokenizer import load_tokenizer
from clipvip_jax.utils.errors import UserError


@dataclasses.dataclass(frozen=True)
class Throughput:
  """What was measured: `clips` in `seconds`, after the workers had started."""

  clips: int
  seconds: float

  @property
  def clips_per_second(self) -> float:
    return self.clips / self.seconds


def training_clips(corpus: Corpus, split: str, num_frames: int = 12, image_size: int = 224) -> ClipBatcher:
  """A split's clips as training reads them: jittered frames and the fields `subtitle` and `caption`.

  Raises:
    UserError: no such split.
  """
  fields = {"subtitle": "subtitle", "caption": "caption"}
  corpus.check_fields(split, list(fields))
  return ClipBatcher(corpus.source(split), load_tokenizer("clip"), fields, num_frames, image_size, 70, jitter_seed=0)


def throughput(clips: ClipBatcher, batch_size: int = 16, num_workers: int = 0, seconds: float = 5.0) -> Throughput:
  """Loads shuffled batches for about so many seconds, and throws them away.

  Args:
    clips: of a corpus; epochs follow each other.
    batch_size: clips of a batch.
    num_workers: as host.num_workers.
    seconds: to measure, after what the start takes.

  Raises:
    UserError: an empty split, a number that is too small, or a record that cannot be read.
  """
  for name, value, least in (("batch_size", batch_size, 1), ("num_workers", num_workers, 0), ("seconds", seconds, 0)):
    if value < least:
      raise UserError(f"{name}={value} must be at least {least}")
  if not len(clips.source):
    raise UserError("the split holds no records to measure with")
  order = RecordSampler(len(clips.source), batch_size, seed=0)
  found = batches([WeightedStream(clips, order)], num_steps=2**40, num_workers=num_workers)
  for _ in range(2 * max(1, num_workers)):  # until every worker runs and its memory is there
    next(found)
  count, started = 0, time.perf_counter()
  while (elapsed := time.perf_counter() - started) < seconds or not count:
    count += int((next(found)["record"] >= 0).sum())
  return Throughput(count, max(elapsed, 1e-9))
