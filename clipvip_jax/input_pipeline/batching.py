"""Batches of preprocessed clips from corpus records, as NumPy arrays.

Runs in worker processes: does not import JAX, TensorFlow or Grain.

Letters: B batch, T frames, S image size in pixels, L text length in tokens.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from clipvip_jax.input_pipeline import jpeg_decoder, preprocessing
from clipvip_jax.input_pipeline.frame_sampling import jittered_frames, middle_frame, uniform_frames
from clipvip_jax.input_pipeline.record_text import Record, record_text, record_texts
from clipvip_jax.input_pipeline.tokenizer import Tokenizer
from clipvip_jax.utils.errors import UserError

PADDING = -1  # record index of a padding example

# Separates the random generator that chooses texts from the one that samples frames.
_TEXT_STREAM = 1

Batch = dict[str, np.ndarray]


class RecordKey(NamedTuple):
  """A visit of a record: determines all randomness in its example. `record` is PADDING for a padding example."""

  epoch: int
  record: int


class ArraySpec(NamedTuple):
  """Shape and dtype of an array."""

  shape: tuple[int, ...]
  dtype: npt.DTypeLike


BatchSpec = Mapping[str, ArraySpec]


@dataclasses.dataclass(frozen=True)
class ClipBatcher:
  """Converts records to batches: decodes and preprocesses frames, tokenizes texts, masks missing texts.

  Attributes:
    records: a split's records by index.
    tokenizer: converts texts to ids.
    text_fields: {array name: field of the records}, as {"subtitle": "subtitle", "caption": "caption"}; a field "" is
      missing in every record.
    num_frames: T.
    image_size: S.
    text_length: L.
    jitter_seed: samples jittered training frames, and one of several texts, by (seed, epoch, record). None samples
      evaluation's evenly spaced frames and the first text.
    middle_frame: whether to add the clip's middle frame as `frame`.
    fast_decode: whether frames may be decoded faster and less exactly; see `jpeg_decoder.decode_jpeg`.
    crop: how frames become square, one of `preprocessing.CROPS`.
    pixels: dtype of the frames, a key of `preprocessing.PIXELS`: normalised float32, or uint8 to normalise later.
  """

  records: Sequence[Record]
  tokenizer: Tokenizer
  text_fields: Mapping[str, str]
  num_frames: int
  image_size: int
  text_length: int
  jitter_seed: int | None = None
  middle_frame: bool = False
  fast_decode: bool = False
  crop: str = "squash"
  pixels: str = "float32"

  def spec(self, batch_size: int) -> BatchSpec:
    """Returns shapes and dtypes of a batch of B = `batch_size` clips.

    `video` [B, T, S, S, 3], `frame` [B, S, S, 3], `record` [B], and for each text its ids [B, L] and `NAME_mask` [B],
    which is False where the text is missing.
    """
    image_shape = (self.image_size, self.image_size, 3)
    spec = {
      "video": ArraySpec((batch_size, self.num_frames, *image_shape), np.dtype(self.pixels)),
      "record": ArraySpec((batch_size,), np.int64),
    }
    if self.middle_frame:
      spec["frame"] = ArraySpec((batch_size, *image_shape), np.dtype(self.pixels))
    for name in self.text_fields:
      spec[name] = ArraySpec((batch_size, self.text_length), np.int32)
      spec[f"{name}_mask"] = ArraySpec((batch_size,), np.bool_)
    return spec

  def batch(self, keys: Sequence[RecordKey], out: Batch | None = None) -> Batch:
    """Returns the batch of some records, with the arrays of `spec`; padding examples are zeros with False masks.

    Args:
      keys: B records.
      out: arrays to fill; None allocates them.

    Raises:
      UserError: a record has no frames, or a frame that cannot be decoded.
    """
    if out is None:
      out = {name: np.empty(*spec) for name, spec in self.spec(len(keys)).items()}
    for row, key in enumerate(keys):
      example = {name: array[row] for name, array in out.items() if array.ndim > 1}
      texts = self._fill_frames(key, example) if key.record != PADDING else self._fill_padding(example)
      out["record"][row] = key.record
      for name, text in texts.items():
        example[name][:] = self.tokenizer([text], self.text_length)[0]
        out[f"{name}_mask"][row] = bool(text)
    return out

  def _fill_padding(self, example: Batch) -> dict[str, str]:
    for name in ("video", "frame"):
      if name in example:
        example[name][:] = 0
    return dict.fromkeys(self.text_fields, "")

  def _fill_frames(self, key: RecordKey, example: Batch) -> dict[str, str]:
    """Writes a record's preprocessed frames; returns its texts, "" for a missing one."""
    record = self.records[key.record]
    frames, name = record["frames"], record_text(record, "id")
    if len(frames) == 0:
      raise UserError(f"record {name} has no frames; build the corpus again")
    fast_side = self.image_size if self.fast_decode else 0
    resize = preprocessing.PIXELS[self.pixels]
    filled: dict[int, np.ndarray] = {}
    for index, out in self._frame_outputs(key, len(frames), example):
      if index in filled:
        np.copyto(out, filled[index])
      else:
        frame = jpeg_decoder.decode_jpeg(frames[index], f"a frame of {name}", fast_side)
        filled[index] = resize(frame, self.image_size, out, self.crop)
    return self._sample_texts(record, key)

  def _frame_outputs(self, key: RecordKey, num_frames: int, example: Batch) -> Iterator[tuple[int, np.ndarray]]:
    """Yields (frame index, array to write its pixels to)."""
    yield from zip(self._sample_frames(key, num_frames).tolist(), example["video"], strict=True)
    if self.middle_frame:
      yield middle_frame(num_frames), example["frame"]

  def _sample_frames(self, key: RecordKey, num_frames: int) -> np.ndarray:
    if self.jitter_seed is None:
      return uniform_frames(num_frames, self.num_frames)
    return jittered_frames(num_frames, self.num_frames, np.random.default_rng((self.jitter_seed, *key)))

  def _sample_texts(self, record: Record, key: RecordKey) -> dict[str, str]:
    """Returns one text of each field, "" for a missing one."""
    choices = {name: record_texts(record, field) for name, field in self.text_fields.items()}
    if self.jitter_seed is None or all(len(texts) <= 1 for texts in choices.values()):
      return {name: texts[0] if texts else "" for name, texts in choices.items()}
    rng = np.random.default_rng((self.jitter_seed, *key, _TEXT_STREAM))
    return {name: texts[rng.integers(len(texts))] if texts else "" for name, texts in choices.items()}
