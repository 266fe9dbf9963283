"""Records -> the arrays of a batch, written in place.

This runs in worker processes: neither JAX nor TensorFlow nor Grain is imported here.

Letters: B clips, T frames, S side in pixels or tokens of a text.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from clipvip_jax.input_pipeline import preprocessing
from clipvip_jax.input_pipeline.corpus import text, texts
from clipvip_jax.input_pipeline.frame_sampling import jittered_frames, middle_frame, uniform_frames
from clipvip_jax.input_pipeline.tokenizer import Tokenizer
from clipvip_jax.utils.errors import UserError

# Arrays start at multiples of this many bytes of a batch: as processors and JAX like them.
_ALIGNMENT = 64
# Tells the generator that draws texts from the one that draws frames.
_TEXTS = 1

Arrays = dict[str, np.ndarray]
Layout = Mapping[str, tuple[tuple[int, ...], Any]]


@dataclasses.dataclass(frozen=True)
class ClipBatcher:
  """How records become arrays.

  Attributes:
    source: records by index.
    tokenizer: texts -> ids.
    texts: array name -> the record's field, as {"subtitle": "subtitle", "caption": "caption"}; "" for a text that no
      record has.
    num_frames: T.
    image_size: S in pixels.
    text_length: S in tokens.
    jitter_seed: draws the frames of training, and one of several texts, by (seed, epoch, record); None takes the evenly
      spread frames of evaluation and the first text.
    middle_frame: whether to add `frame`, the middle frame of the clip.
    fast_decode: whether frames may be decoded faster and less exactly; see `pixels.decode_jpeg`.
  """

  source: Sequence[dict[str, Any]]
  tokenizer: Tokenizer
  texts: dict[str, str]
  num_frames: int
  image_size: int
  text_length: int
  jitter_seed: int | None = None
  middle_frame: bool = False
  fast_decode: bool = False

  def layout(self, count: int) -> Layout:
    """Shapes and types of a batch of B = `count` clips.

    `video` [B, T, S, S, 3], `frame` [B, S, S, 3], for each text its ids [B, S] and `NAME_mask` [B], and `record` [B].
    """
    pixels_shape = (self.image_size, self.image_size, 3)
    arrays: dict[str, tuple[tuple[int, ...], Any]] = {
      "video": ((count, self.num_frames, *pixels_shape), np.float32),
      "record": ((count,), np.int64),
    }
    if self.middle_frame:
      arrays["frame"] = ((count, *pixels_shape), np.float32)
    for key in self.texts:
      arrays[key] = ((count, self.text_length), np.int32)
      arrays[f"{key}_mask"] = ((count,), np.bool_)
    return arrays

  def batch(self, slots: Sequence[tuple[int, int]], arrays: Arrays | None = None) -> Arrays:
    """The arrays of `layout` for clips given as (epoch, record); record -1 is padding: zeros, masks that are false.

    Args:
      slots: B of them.
      arrays: to be filled, whatever they hold; None: new ones.

    Raises:
      UserError: a record without frames, or with one that cannot be decoded.
    """
    if arrays is None:
      arrays = {key: np.empty(*array) for key, array in self.layout(len(slots)).items()}
    for row, (epoch, index) in enumerate(slots):
      clip = {key: array[row] for key, array in arrays.items() if array.ndim > 1}
      said = self._clip(epoch, index, clip) if index >= 0 else self._padding(clip)
      arrays["record"][row] = index
      for key, value in said.items():
        clip[key][:] = self.tokenizer([value], self.text_length)[0]
        arrays[f"{key}_mask"][row] = bool(value)
    return arrays

  def _padding(self, clip: Arrays) -> dict[str, str]:
    for key in ("video", "frame"):
      if key in clip:
        clip[key][:] = 0
    return dict.fromkeys(self.texts, "")

  def _clip(self, epoch: int, index: int, clip: Arrays) -> dict[str, str]:
    """Fills in a record's pixels, and gives its texts, "" for one that is missing."""
    record = self.source[index]
    frames, name = record["frames"], text(record, "id")
    if len(frames) == 0:
      raise UserError(f"record {name} has no frames: build the corpus again")
    chosen = self._chosen(epoch, index, len(frames))
    fast_side = self.image_size if self.fast_decode else 0
    places: dict[int, np.ndarray] = {}  # where a frame's pixels stand already
    for i, place in self._places(chosen, len(frames), clip):
      if i in places:
        np.copyto(place, places[i])
      else:
        frame = preprocessing.decode_jpeg(frames[i], f"a frame of {name}", fast_side)
        places[i] = preprocessing.resize_normalize(frame, self.image_size, place)
    return self._texts(record, epoch, index)

  def _places(self, chosen: np.ndarray, num_frames: int, clip: Arrays) -> Iterator[tuple[int, np.ndarray]]:
    """(frame, where its pixels go)."""
    yield from zip(chosen.tolist(), clip["video"], strict=True)
    if self.middle_frame:
      yield middle_frame(num_frames), clip["frame"]

  def _chosen(self, epoch: int, index: int, num_frames: int) -> np.ndarray:
    if self.jitter_seed is None:
      return uniform_frames(num_frames, self.num_frames)
    return jittered_frames(num_frames, self.num_frames, np.random.default_rng((self.jitter_seed, epoch, index)))

  def _texts(self, record: dict[str, Any], epoch: int, index: int) -> dict[str, str]:
    found = {key: texts(record, field) for key, field in self.texts.items()}
    if self.jitter_seed is None or all(len(values) <= 1 for values in found.values()):
      return {key: values[0] if values else "" for key, values in found.items()}
    rng = np.random.default_rng((self.jitter_seed, epoch, index, _TEXTS))
    return {key: values[rng.integers(len(values))] if values else "" for key, values in found.items()}


def size(layout: Layout) -> int:
  """Bytes that `views` needs."""
  return sum(_padded(shape, dtype) for shape, dtype in layout.values())


def views(memory: np.ndarray, layout: Layout) -> Arrays:
  """The arrays of a layout, one behind another in `memory`, uint8 of at least `size(layout)` bytes."""
  arrays, start = {}, 0
  for key, (shape, dtype) in layout.items():
    stop = start + math.prod(shape) * np.dtype(dtype).itemsize
    arrays[key] = memory[start:stop].view(dtype).reshape(shape)
    start += _padded(shape, dtype)
  return arrays


def _padded(shape: tuple[int, ...], dtype: Any) -> int:
  return -(-math.prod(shape) * np.dtype(dtype).itemsize // _ALIGNMENT) * _ALIGNMENT
