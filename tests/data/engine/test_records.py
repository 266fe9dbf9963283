"""The record format."""

import numpy as np
import pytest
import simplejpeg

from clipvip_jax.data.engine.records import encode_jpeg, record_features


def test_corpora_add_text_fields():
  assert set(record_features(["twin"])) - set(record_features()) == {"twin"}


@pytest.mark.parametrize("frame", [np.zeros((32, 48, 3), np.uint8), np.zeros((48, 32, 3), np.uint8).swapaxes(0, 1)])
def test_jpeg_keeps_the_size_and_halves_chroma(frame):
  assert simplejpeg.decode_jpeg_header(encode_jpeg(frame, 90))[:4] == (32, 48, "YCbCr", "420")
