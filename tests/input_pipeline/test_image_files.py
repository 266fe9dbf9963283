"""Image files: scaling, and files that are refused."""

import os
import zlib

import numpy as np
import pytest
from PIL import Image

from clipvip_jax.input_pipeline.image_files import fit_size, is_still_image, read_image, shrink_to_fit
from clipvip_jax.input_pipeline.media_error import MediaError


@pytest.mark.parametrize(
  ("shape", "box", "expected"),
  [
    ((100, 200), (50, np.inf), (50, 100)),
    ((100, 200), (np.inf, 50), (25, 50)),
    ((100, 200), (320, 160), (80, 160)),
    ((600, 200), (320, 160), (320, 107)),
    ((1, 5000), (np.inf, 50), (1, 50)),
  ],
)
def test_shrinks_into_the_box_and_keeps_the_aspect(shape, box, expected):
  image = np.zeros((*shape, 3), np.uint8)
  assert shrink_to_fit(image, max_height=box[0], max_width=box[1]).shape == (*expected, 3)


def test_never_enlarges():
  image = np.zeros((100, 200, 3), np.uint8)
  assert shrink_to_fit(image, max_height=100, max_width=200) is image
  assert shrink_to_fit(image) is image


def test_averages_areas():
  image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
  expected = image.reshape(10, 4, 15, 4, 3).mean(axis=(1, 3))
  np.testing.assert_allclose(shrink_to_fit(image, max_height=10), expected, atol=0.51)


def test_fit_size_enlarges_too():
  assert fit_size(10, 20, 128, 128) == (64, 128)
  assert fit_size(20, 10, 128, 128) == (128, 64)


@pytest.mark.parametrize(("transfer", "refused"), [(16, True), (18, True), (13, False)])
def test_an_hdr_png_is_refused(tmp_path, transfer, refused):
  path = tmp_path / "x.png"
  Image.new("RGB", (8, 8), (10, 20, 30)).save(path)
  content, chunk = path.read_bytes(), b"cICP" + bytes((9, transfer, 0, 1))
  path.write_bytes(content[:33] + b"\0\0\0\4" + chunk + zlib.crc32(chunk).to_bytes(4, "big") + content[33:])
  if not refused:
    assert read_image(path)[0, 0].tolist() == [10, 20, 30]
    return
  with pytest.raises(MediaError, match=r"x\.png: an HDR image \(PQ or HLG\), .*; convert it to SDR"):
    read_image(path)


@pytest.mark.parametrize("size", [4, 5, 6])
def test_a_truncated_png_is_refused(tmp_path, size):
  path = tmp_path / "x.png"
  path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0\0\0\4" + b"cICP\x09\x01"[:size])
  with pytest.raises(MediaError, match=r"x\.png: not a valid"):
    read_image(path)


def test_a_pipe_is_no_image(tmp_path):
  """Reading it would wait for ever."""
  os.mkfifo(tmp_path / "x.jpg")
  assert is_still_image(tmp_path / "x.jpg")
  with pytest.raises(MediaError, match=r"x\.jpg: not a file"):
    read_image(tmp_path / "x.jpg")
  with pytest.raises(MediaError, match=r"none\.jpg: no such file"):
    read_image(tmp_path / "none.jpg")
