"""The record that all corpora share, and its JPEG frames."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
  import tensorflow_datasets as tfds


def record_features(extra: Iterable[str] = ()) -> tfds.features.FeaturesDict:
  """One clip. Frames are stored as JPEG bytes and not as images, so that a reader decodes only those it draws.

  id: unique in its split. frames: all frames of the clip. num_frames: their number. subtitle: what is said, "" for
  none. caption: what the middle frame, int(num_frames / 2), shows; "" where missing. description: texts of the
  whole clip, none, one or several; in evaluation they are the queries.

  extra: text fields that a corpus adds.
  """
  import tensorflow_datasets as tfds  # here, so that worker processes can encode frames without it

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


def encode_jpeg(frame: np.ndarray, quality: int) -> bytes:
  """JPEG of a uint8 RGB [H, W, 3] frame. quality: 1 to 100; chroma is stored at half size, as in the video."""
  import simplejpeg

  return simplejpeg.encode_jpeg(np.ascontiguousarray(frame), quality=quality, colorspace="RGB", colorsubsampling="420")
