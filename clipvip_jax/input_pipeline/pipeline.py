"""Records -> batches of arrays, through Grain.

The order and the randomness of a record follow from (seed, epoch, record) alone, so any number of worker processes and
of hosts gives the same global batches, and the position is one number: how many steps were taken.

Letters: B batch of this process, T frames, S side in pixels or tokens of a text.
"""

import dataclasses
import os
from collections.abc import Iterator, Sequence
from typing import Any

import grain
import numpy as np
from absl import flags
from grain.experimental import index_shuffle

from clipvip_jax.errors import UserError
from clipvip_jax.input_pipeline import pixels
from clipvip_jax.input_pipeline.corpus import text
from clipvip_jax.input_pipeline.frames import jittered_frames, middle_frame, uniform_frames
from clipvip_jax.input_pipeline.tokenizer import Tokenizer

# Enough to mix the bits of an index; see grain's index_shuffle.
_SHUFFLE_ROUNDS = 4
_BUFFERED_BATCHES = 2


@dataclasses.dataclass(frozen=True)
class Order:
  """Which record stands where. A last batch that is not full is padded with no record, -1, instead of dropped.

  Attributes:
    num_records: in the split.
    batch_size: global, over all processes.
    seed: shuffles anew every epoch; None keeps the records' own order.
  """

  num_records: int
  batch_size: int
  seed: int | None = None

  @property
  def steps_per_epoch(self) -> int:
    """Global batches that show every record once."""
    return -(-self.num_records // self.batch_size)

  def record(self, step: int, slot: int) -> tuple[int, int]:
    """(epoch, record) in a slot of a step's global batch; record -1 is padding."""
    epoch, step = divmod(step, self.steps_per_epoch)
    index = step * self.batch_size + slot
    if index >= self.num_records:
      return epoch, -1
    if self.seed is None:
      return epoch, index
    seed = int(np.random.SeedSequence((self.seed, epoch)).generate_state(1)[0])
    return epoch, index_shuffle(index, self.num_records - 1, seed, _SHUFFLE_ROUNDS)


class Slots(Sequence):
  """Every slot of this process from a step on, as (epoch, record): what Grain's random access reads."""

  def __init__(self, order: Order, first_step: int, num_steps: int, process: tuple[int, int] = (0, 1)):
    """`process`: this process' index and the number of processes; each takes its share of every global batch."""
    index, count = process
    self._order, self._first_step, self._num_steps = order, first_step, num_steps
    self._share = order.batch_size // count
    self._first_slot = index * self._share

  def __len__(self):
    return max(0, self._num_steps - self._first_step) * self._share

  def __getitem__(self, i):
    step, slot = divmod(i, self._share)
    return self._order.record(self._first_step + step, self._first_slot + slot)


@dataclasses.dataclass(frozen=True)
class Clips:
  """How a record becomes arrays.

  Attributes:
    source: records by index.
    tokenizer: texts -> ids.
    texts: array name -> the record's field, as {"subtitle": "subtitle", "caption": "caption"}.
    num_frames: T.
    image_size: S in pixels.
    text_length: S in tokens.
    jitter_seed: draws the frames of training by (seed, epoch, record); None takes the evenly spread frames of
      evaluation.
    middle_frame: whether to add `frame`, the middle frame of the clip.
  """

  source: Sequence[dict[str, Any]]
  tokenizer: Tokenizer
  texts: dict[str, str]
  num_frames: int
  image_size: int
  text_length: int
  jitter_seed: int | None = None
  middle_frame: bool = False

  def __call__(self, slot: tuple[int, int]) -> dict[str, np.ndarray]:
    """`video` [T, S, S, 3] and `frame` [S, S, 3] float32, for each text its ids [S] and `NAME_mask`, and `record`.

    Padding is zeros, with masks that are false and record -1.
    """
    epoch, index = slot
    if index < 0:
      return self._arrays(np.zeros(self._video_shape, np.float32), self._zero_frame, dict.fromkeys(self.texts, ""), -1)
    record = self.source[index]
    frames, name = record["frames"], text(record, "id")
    video = np.stack([self._pixels(frames[i], name) for i in self._chosen(epoch, index, len(frames), name)])
    middle = self._pixels(frames[middle_frame(len(frames))], name) if self.middle_frame else None
    return self._arrays(video, middle, {key: text(record, field) for key, field in self.texts.items()}, index)

  @property
  def _video_shape(self):
    return (self.num_frames, self.image_size, self.image_size, 3)

  @property
  def _zero_frame(self):
    return np.zeros(self._video_shape[1:], np.float32)

  def _pixels(self, jpeg: bytes, name: str) -> np.ndarray:
    return pixels.resize_normalize(pixels.decode_jpeg(jpeg, f"a frame of {name}"), self.image_size)

  def _chosen(self, epoch: int, index: int, num_frames: int, name: str) -> np.ndarray:
    if num_frames == 0:
      raise UserError(f"record {name} has no frames: build the corpus again")
    if self.jitter_seed is None:
      return uniform_frames(num_frames, self.num_frames)
    return jittered_frames(num_frames, self.num_frames, np.random.default_rng((self.jitter_seed, epoch, index)))

  def _arrays(self, video, middle, texts: dict[str, str], index: int) -> dict[str, np.ndarray]:
    arrays = {"video": video, "record": np.int64(index)}
    if self.middle_frame:
      arrays["frame"] = middle
    for key, value in texts.items():
      arrays[key] = self.tokenizer([value], self.text_length)[0]
      arrays[f"{key}_mask"] = np.bool_(value.strip() != "")
    return arrays


def _start_worker(index: int, count: int) -> None:
  """Keeps a data worker off the accelerators and to one thread, so that workers do not fight for cores."""
  del index, count
  os.environ.update(JAX_PLATFORMS="cpu", CUDA_VISIBLE_DEVICES="")
  pixels.limit_threads()


def batches(
  clips: Clips,
  order: Order,
  *,
  num_steps: int,
  first_step: int = 0,
  num_workers: int = 0,
  process: tuple[int, int] = (0, 1),
) -> Iterator[dict[str, np.ndarray]]:
  """This process' share of the global batches first_step, ..., num_steps - 1, in order.

  Args:
    clips: record -> arrays.
    order: which record stands where.
    num_steps: of the whole run.
    first_step: the position to go on from.
    num_workers: processes that load data, without TensorFlow or an accelerator; 0: threads of this one.
    process: index of this process and their number.

  Raises:
    UserError: a batch that the processes cannot share evenly.
  """
  if order.batch_size % process[1]:
    raise UserError(f"a batch of {order.batch_size} cannot be shared by {process[1]} processes")
  slots = Slots(order, first_step, num_steps, process)
  dataset = grain.MapDataset.source(slots).map(clips).batch(order.batch_size // process[1])
  threads = grain.ReadOptions(num_threads=1 if num_workers else 2, prefetch_buffer_size=_BUFFERED_BATCHES)
  loader = dataset.to_iter_dataset(threads)
  if num_workers:
    if not flags.FLAGS.is_parsed():
      flags.FLAGS.mark_as_parsed()  # Grain's workers read absl's flags, which a notebook or a test has not parsed
    loader = loader.mp_prefetch(
      grain.MultiprocessingOptions(num_workers=num_workers, per_worker_buffer_size=_BUFFERED_BATCHES),
      worker_init_fn=_start_worker,
    )
  return iter(loader)
