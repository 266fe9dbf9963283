"""Records made up for tests of the input pipeline, and their batcher."""

import numpy as np
import simplejpeg

from clipvip_jax.input_pipeline.batching import ClipBatcher
from clipvip_jax.input_pipeline.word_tokenizer import WordTokenizer

TEXTS = {"subtitle": "subtitle", "caption": "caption"}


def make_records(count=10, frames=7):
  """Returns records in which frame j of record i has the grey value 10 i + j."""

  def jpeg(value):
    return simplejpeg.encode_jpeg(np.full((16, 16, 3), value, np.uint8), quality=95)

  return [
    {
      "id": f"clip{i}".encode(),
      "frames": [jpeg(10 * i + j) for j in range(frames)],
      "subtitle": b"" if i == 3 else f"word{i} spoken".encode(),
      "caption": b" " if i == 4 else f"word{i} seen".encode(),
    }
    for i in range(count)
  ]


def make_batcher(records, **overrides):
  """Returns a batcher of small frames."""
  fields = {
    "records": records,
    "tokenizer": WordTokenizer.train([f"word{i} spoken seen" for i in range(10)], 32),
    "text_fields": TEXTS,
    "num_frames": 3,
    "image_size": 8,
    "text_length": 5,
    "jitter_seed": 7,
    "middle_frame": True,
  }
  return ClipBatcher(**{**fields, **overrides})


def assert_same_batches(first, second):
  assert len(first) == len(second)
  for a, b in zip(first, second, strict=True):
    assert set(a) == set(b)
    for name in a:
      np.testing.assert_array_equal(a[name], b[name], err_msg=name)
