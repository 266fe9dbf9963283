"""Preprocessing: the reference's numbers, bicubic interpolation by its formula, and crops."""

import subprocess
import sys

import numpy as np
import PIL.Image
import pytest
from numeric import assert_close
from pictures import smooth_image

from clipvip_jax.input_pipeline import preprocessing
from clipvip_jax.input_pipeline.preprocessing import (
  CROPS,
  MEAN,
  STD,
  limit_threads,
  resize_normalize,
  resize_uint8,
)
from clipvip_jax.utils.errors import UserError


def cubic_matrix(source, target):
  """[target, source] weights of bicubic interpolation: a = -0.75, half-pixel centres, replicated borders."""
  weights, a = np.zeros((target, source)), -0.75
  for row in range(target):
    centre = (row + 0.5) * source / target - 0.5
    for tap in range(int(np.floor(centre)) - 1, int(np.floor(centre)) + 3):
      x = abs(centre - tap)
      near, far = (a + 2) * x**3 - (a + 3) * x**2 + 1, a * (x**3 - 5 * x**2 + 8 * x - 4)
      weights[row, np.clip(tap, 0, source - 1)] += near if x <= 1 else far
  return weights


def test_pixels_equal_the_reference(golden):
  stored = golden("preprocess.npz")
  for frame, expected in zip(stored["frames"], stored["no_antialias"], strict=True):
    pixels = resize_normalize(frame, expected.shape[-1])
    assert pixels.dtype == np.float32
    assert_close(pixels.transpose(2, 0, 1), expected)


@pytest.mark.parametrize("size", [1, 32, 224])
@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (7, 5), (32, 32), (240, 320), (481, 37), (224, 224)])
def test_resize_equals_the_formula_at_any_shape(shape, size):
  frame = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
  rows, columns = (cubic_matrix(side, size) for side in shape)
  resized = np.einsum("yh,hwc,xw->yxc", rows, frame / 255, columns, optimize=True)
  assert_close(resize_normalize(frame, size), (resized - MEAN) / STD)


# Height and width of frames, and what torchvision's Resize(size) and CenterCrop(size) make of them.
CENTERED = [
  ((240, 320), 224, (224, 298), (0, 37)),
  ((320, 240), 224, (298, 224), (37, 0)),
  ((256, 399), 224, (224, 349), (0, 62)),  # 62.5 to the even integer
  ((256, 402), 224, (224, 351), (0, 64)),  # 63.5
  ((1080, 1920), 224, (224, 398), (0, 87)),
  ((7, 5), 32, (44, 32), (6, 0)),
  ((3, 20), 8, (8, 53), (0, 22)),
  ((64, 64), 16, (16, 16), (0, 0)),
  ((1, 1), 4, (4, 4), (0, 0)),
]


@pytest.mark.parametrize(("shape", "size", "resized", "start"), CENTERED)
def test_centre_crop_equals_the_formula_and_the_geometry_of_torchvision(shape, size, resized, start):
  assert preprocessing.center_crop(*shape, size) == (resized, start)
  frame = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
  rows, columns = (cubic_matrix(*sides) for sides in zip(shape, resized, strict=True))
  rows, columns = (x[i : i + size] for x, i in zip((rows, columns), start, strict=True))
  expected = np.einsum("yh,hwc,xw->yxc", rows, frame / 255, columns, optimize=True)
  out = np.empty((size, size, 3), np.float32)
  assert resize_normalize(frame, size, out, "center") is out
  assert_close(out, (expected - MEAN) / STD)


@pytest.mark.parametrize("transposed", [False, True])
def test_centre_crop_shows_what_clips_transform_shows(transposed):
  """CLIP resizes with Pillow. On a ramp of one grey level per pixel its kernel gives the same levels."""
  ramp = np.repeat(np.arange(0, 200, 2, dtype=np.uint8)[None], 60, axis=0)
  image = PIL.Image.fromarray(ramp).resize((200, 120), PIL.Image.Resampling.BICUBIC).crop((40, 0, 160, 120))
  frame, expected = ramp[..., None].repeat(3, 2), np.asarray(image, np.float32)[..., None]
  if transposed:
    frame, expected = frame.transpose(1, 0, 2), expected.transpose(1, 0, 2)
  pixels = 255 * (resize_normalize(frame, 120, crop="center") * STD + MEAN)
  assert np.abs(pixels - expected).max() < 0.75  # Pillow rounds by up to half a level


def test_square_frames_are_the_same_squashed_and_cropped():
  for side in (9, 40):
    frame = smooth_image(side, side)
    np.testing.assert_array_equal(resize_normalize(frame, 16, crop="center"), resize_normalize(frame, 16))


@pytest.mark.parametrize("shape", [(2, 30_000), (30_000, 2), (1, 60_001)])
def test_extremely_long_frames_are_cropped_without_resizing_all_of_them(shape, monkeypatch):
  import cv2

  sizes = []
  original = cv2.resize
  monkeypatch.setattr(cv2, "resize", lambda *args, **options: sizes.append(args[1]) or original(*args, **options))
  frame = np.zeros((*shape, 3), np.uint8)
  middle = tuple(slice(max(0, side // 2 - 40), side // 2 + 40) for side in shape)
  frame[middle] = 255
  assert_close(resize_normalize(frame, 32, crop="center"), np.broadcast_to((1 - np.array(MEAN)) / STD, (32, 32, 3)))
  assert max(sizes[0]) <= 16 * 32


def resized_by_the_formula(frame, size, crop):
  """Returns float64 [size, size, 3] in 0 to 255, with the overshoot of the filter."""
  resized, start = ((size, size), (0, 0)) if crop == "squash" else preprocessing.center_crop(*frame.shape[:2], size)
  rows, columns = (cubic_matrix(*sides) for sides in zip(frame.shape[:2], resized, strict=True))
  rows, columns = (x[i : i + size] for x, i in zip((rows, columns), start, strict=True))
  return np.einsum("yh,hwc,xw->yxc", rows, frame.astype(np.float64), columns, optimize=True)


@pytest.mark.parametrize("crop", CROPS)
@pytest.mark.parametrize(("shape", "size"), [((240, 320), 224), ((320, 180), 32), ((7, 5), 32), ((64, 64), 32)])
def test_uint8_pixels_are_the_formula_rounded(shape, size, crop):
  frame = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
  expected = np.clip(resized_by_the_formula(frame, size, crop), 0, 255)
  error = np.abs(resize_uint8(frame, size, crop=crop) - expected)
  # Half a level of rounding, and 11 bits of weights: 2 x 4 taps, each off by up to 2^-12 of 255.
  assert error.max() <= 0.5 + 8 * 255 / 2**12
  assert error.mean() < 0.3, "rounded to the nearest, not cut off: a uniform error of up to half a level has mean 0.25"


def test_uint8_pixels_are_written_into_a_slice_of_a_batch():
  frames = [smooth_image(24, 32), smooth_image(480, 640), smooth_image(40, 40)[::2, 3:-3, ::-1]]
  batch = np.full((5, 16, 16, 3), 7, np.uint8)
  for out, frame in zip(batch[1:4], frames, strict=True):
    assert resize_uint8(frame, 16, out) is out
    np.testing.assert_array_equal(out, resize_uint8(np.ascontiguousarray(frame), 16))
  assert (batch[0] == 7).all() and (batch[4] == 7).all()


@pytest.mark.parametrize("crop", CROPS)
def test_frames_of_the_models_size_stay_as_they_are_in_uint8(crop):
  frame = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
  np.testing.assert_array_equal(resize_uint8(frame, 32, crop=crop), frame)


@pytest.mark.parametrize("out", [np.empty((16, 16, 3), np.float32), np.empty((16, 16, 6), np.uint8)[..., ::2]])
def test_an_unsuitable_output_of_uint8_pixels_is_rejected(out):
  with pytest.raises(UserError, match=r"expected a C-contiguous uint8 output \[16, 16, 3\], got "):
    resize_uint8(smooth_image(24, 32), 16, out)


def test_an_unknown_crop_is_rejected():
  for resize in (resize_normalize, resize_uint8):
    with pytest.raises(UserError, match="crop='middle' is unknown; use squash or center"):
      resize(smooth_image(4, 4), 8, crop="middle")


@pytest.mark.parametrize(("shape", "rows", "columns"), [((9, 20), (0, 9), (6, 15)), ((21, 8), (6, 14), (0, 8))])
def test_the_visible_part_of_a_frame(shape, rows, columns):
  frame = smooth_image(*shape)
  assert preprocessing.crop_frame(frame, "squash") is frame
  np.testing.assert_array_equal(preprocessing.crop_frame(frame, "center"), frame[slice(*rows), slice(*columns)])


def test_resize_returns_a_new_writable_array_for_each_call():
  frame = smooth_image(24, 32)
  first, second = resize_normalize(frame, 16), resize_normalize(frame, 16)
  first[:] = 0
  assert second.flags.c_contiguous and np.abs(second).max() > 0
  np.testing.assert_array_equal(second, resize_normalize(frame, 16))


def test_resize_writes_into_a_slice_of_a_batch():
  frames = [smooth_image(24, 32), smooth_image(480, 640), smooth_image(10, 7)]
  batch = np.full((5, 16, 16, 3), np.nan, np.float32)
  for out, frame in zip(batch[1:4], frames, strict=True):
    assert resize_normalize(frame, 16, out) is out
    np.testing.assert_array_equal(out, resize_normalize(frame, 16))
  assert np.isnan(batch[0]).all() and np.isnan(batch[4]).all()


@pytest.mark.parametrize(
  "out",
  [np.empty((16, 16, 3)), np.empty((15, 16, 3), np.float32), np.empty((16, 16, 6), np.float32)[..., ::2]],
  ids=["dtype", "shape", "not contiguous"],
)
def test_an_unsuitable_output_is_rejected(out):
  with pytest.raises(UserError, match=r"expected a C-contiguous float32 output \[16, 16, 3\], got float"):
    resize_normalize(smooth_image(24, 32), 16, out)


def test_resize_of_a_frame_larger_than_the_reused_buffer():
  large = np.random.default_rng(0).integers(0, 256, (1100, 2000, 3), dtype=np.uint8)
  before = resize_normalize(smooth_image(24, 32), 16)
  resized = np.einsum("yh,hwc,xw->yxc", cubic_matrix(1100, 16), large / 255, cubic_matrix(2000, 16), optimize=True)
  assert_close(resize_normalize(large, 16), (resized - MEAN) / STD)
  np.testing.assert_array_equal(resize_normalize(smooth_image(24, 32), 16), before)


def test_resize_accepts_views():
  frame = smooth_image(40, 40)
  np.testing.assert_array_equal(
    resize_normalize(frame[::2, 3:-3, ::-1], 16),
    resize_normalize(np.ascontiguousarray(frame[::2, 3:-3, ::-1]), 16),
  )


def test_limit_threads_does_not_change_pixels():
  import cv2

  frame, before = smooth_image(240, 320), cv2.getNumThreads()
  expected = resize_normalize(frame, 224)
  try:
    limit_threads()
    assert cv2.getNumThreads() == 1
    np.testing.assert_array_equal(resize_normalize(frame, 224), expected)
  finally:
    cv2.setNumThreads(before)


@pytest.mark.parametrize(
  "frame",
  [
    np.zeros((4, 4, 3), np.float32),
    np.zeros((4, 4), np.uint8),
    np.zeros((3, 4, 4), np.uint8),
    np.zeros((0, 4, 3), np.uint8),
  ],
)
def test_arrays_that_are_not_frames_are_rejected(frame):
  with pytest.raises(UserError, match=r"expected a uint8 frame \[height, width, 3\], got (uint8|float32) \["):
    resize_normalize(frame, 8)


def test_a_size_below_one_is_rejected():
  with pytest.raises(UserError, match="0 x 0 pixels; the size must be at least 1"):
    resize_normalize(smooth_image(4, 4), 0)


def test_worker_modules_do_not_import_accelerator_libraries():
  """Each import would cost every worker process seconds to start, and possibly GPU memory."""
  program = """
import sys
import numpy as np
from clipvip_jax.input_pipeline import batching, corpus, frame_sampling, jpeg_decoder, load_tokenizer
from clipvip_jax.input_pipeline import preprocessing, word_tokenizer, workers
late = {"cv2", "simplejpeg", "tokenizers"} & set(sys.modules)
assert not late, f"imported early: {late}"
frame_sampling.jittered_frames(40, 12, np.random.default_rng(0))
preprocessing.limit_threads()
import simplejpeg
preprocessing.resize_normalize(jpeg_decoder.decode_jpeg(simplejpeg.encode_jpeg(np.zeros((8, 8, 3), np.uint8))), 16)
load_tokenizer.load_tokenizer("clip")(["a cat"], 8)
word_tokenizer.WordTokenizer.train(["a cat"], 16)(["a cat"], 8)
imported = {name.partition(".")[0] for name in sys.modules} & {"jax", "jaxlib", "flax", "tensorflow", "torch", "grain"}
assert not imported, f"imported: {imported}"
"""
  result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
  assert result.returncode == 0, result.stderr
