"""Normalization on the device: the host's numbers."""

import jax
import numpy as np
from numeric import assert_close

from clipvip_jax.input_pipeline.device_normalization import normalize
from clipvip_jax.input_pipeline.preprocessing import MEAN, STD, resize_normalize


def test_uint8_pixels_are_normalised_as_on_the_host():
  levels = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
  normalised = jax.jit(normalize)(levels)
  assert normalised.dtype == np.float32
  assert_close(normalised, (levels / 255 - MEAN) / STD)
  assert_close(normalised, resize_normalize(levels, 16))  # which does not resize here


def test_float32_pixels_are_returned_as_they_are():
  pixels = np.ones((2, 4, 4, 3), np.float32)
  assert normalize(pixels) is pixels
