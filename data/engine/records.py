"""The record format of all corpora, and its JPEG encoder."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
  import tensorflow_datasets as tfds


def record_features(extra: Iterable[str] = ()) -> tfds.features.FeaturesDict:
  """Returns the TFDS features of a clip.

  - id: Unique within the split.
  - frames: JPEG bytes of all frames. They are not TFDS images, so that a reader decodes only the frames it samples.
  - num_frames: Number of frames.
  - subtitle: Transcribed speech; "" if none.
  - caption: Text of the middle frame, int(num_frames / 2); "" if none.
  - description: Texts of the entire clip: none, one or several. In evaluation they are the queries.

  Args:
    extra: names of text fields that a corpus adds.
  """
  import tensorflow_datasets as tfds  # lazy: the decoding process encodes frames without it

  text = tfds.features.Text
  return tfds.features.FeaturesDict(
    {
      "id": text(),
      "frames": tfds.features.Sequence(tfds.features.Tensor(shape=(), dtype=np.object_)),
      "num_frames": np.int32,
      "subtitle": text(),
      "caption": text(),
      "description": tfds.features.Sequence(text()),
      **{name: text() for name in extra},
    }
  )


def without_bucket(info: tfds.core.DatasetInfo) -> tfds.core.DatasetInfo:
  """Keeps TFDS from looking a new corpus up in its own bucket, which creates a temporary folder and leaves it."""
  info.initialize_from_bucket = lambda: None
  return info


def encode_jpeg(frame: np.ndarray, quality: int) -> bytes:
  """Encodes a uint8 RGB [H, W, 3] frame with 4:2:0 chroma subsampling.

  Args:
    frame: the picture.
    quality: 1 to 100.
  """
  import simplejpeg

  return simplejpeg.encode_jpeg(np.ascontiguousarray(frame), quality=quality, colorspace="RGB", colorsubsampling="420")
