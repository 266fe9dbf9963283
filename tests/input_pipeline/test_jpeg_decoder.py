"""JPEG decoding: colours, fast decoding, and corrupt files."""

import numpy as np
import pytest
from pictures import jpeg, smooth_image

from clipvip_jax.input_pipeline.jpeg_decoder import decode_jpeg
from clipvip_jax.input_pipeline.preprocessing import resize_normalize
from clipvip_jax.utils.errors import UserError


def test_jpeg_decodes_to_rgb():
  frame = smooth_image(48, 64)
  decoded = decode_jpeg(jpeg(frame, colorsubsampling="444"))
  assert decoded.dtype == np.uint8 and decoded.shape == (48, 64, 3)
  assert np.abs(decoded.astype(int) - frame).max() < 12


def test_grey_jpeg_has_three_channels():
  decoded = decode_jpeg(jpeg(smooth_image(48, 64)[..., :1], colorspace="GRAY"))
  assert decoded.shape == (48, 64, 3) and np.ptp(decoded, axis=2).max() == 0


@pytest.mark.parametrize(("shape", "decoded"), [((48, 64), (48, 64)), ((96, 128), (48, 64)), ((96, 80), (96, 80))])
def test_fast_decoding_is_close_and_never_smaller_than_the_target(shape, decoded):
  data = jpeg(smooth_image(*shape))
  fast = decode_jpeg(data, fast_side=48)
  assert fast.shape == (*decoded, 3)
  exact = resize_normalize(decode_jpeg(data), 48)
  assert 0 < np.abs(resize_normalize(fast, 48) - exact).mean() < 0.05


@pytest.mark.parametrize(
  "corrupt",
  [
    lambda data: b"",
    lambda data: b"no image",
    lambda data: b"\x89PNG\r\n\x1a\n" + data,
    lambda data: data[:100],
    lambda data: data[: len(data) // 2],
    lambda data: data[:-1],
    lambda data: data[: len(data) // 2] + bytes(200) + data[len(data) // 2 :],
    lambda data: data[: len(data) // 2] + data[-2:],
  ],
  ids=["empty", "text", "png", "header", "half", "last byte", "zeros within", "middle lost"],
)
def test_a_corrupt_jpeg_is_rejected_by_name(corrupt):
  data = corrupt(jpeg(np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)))
  with pytest.raises(
    UserError,
    match=rf"frame 3 of video7 \({len(data)} bytes\) is not a valid JPEG: .+; store the frame again or remove it",
  ):
    decode_jpeg(data, "frame 3 of video7")


def test_an_excessive_size_in_the_header_is_rejected_before_allocation():
  data = bytearray(jpeg(smooth_image(48, 64)))
  size = data.index(b"\xff\xc0") + 5  # height and width in the frame header
  data[size : size + 4] = b"\xff\xdc\xff\xdc"
  with pytest.raises(UserError, match="65500 x 65500 pixels are more than"):
    decode_jpeg(bytes(data))


def test_values_that_are_not_bytes_are_rejected():
  for data in (None, "text", 3):
    with pytest.raises(UserError, match=type(data).__name__):
      decode_jpeg(data)
