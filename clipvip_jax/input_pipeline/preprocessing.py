"""CLIP's image preprocessing: bicubic resizing and normalization.

Depends on NumPy but not on JAX: runs in worker processes. Results are written into existing batches, because allocating
memory per frame costs more than resizing.
"""

import functools
import threading
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
from jaxtyping import Float32, UInt8

from clipvip_jax.utils.errors import UserError

# Mean and standard deviation of red, green and blue in [0, 1] over CLIP's training images; CLIP's checkpoints expect
# them. Published with CLIP (Radford et al., 2021, arXiv 2103.00020; `clip/clip.py:_transform`).
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)

# How a frame becomes square. "squash" resizes both sides, as CLIP-ViP does: the aspect ratio is lost. "center" resizes
# the shorter side and crops the longer one around its centre, as CLIP and OpenCLIP do: the ends are lost.
CROPS = ("squash", "center")

_MAX_ASPECT = 16  # longer side of a frame over its shorter one, before a centre crop

# Largest frame for which a thread keeps its float32 buffer: 1080p.
_MAX_BUFFER_SIZE = 1920 * 1088 * 3
_thread_local = threading.local()


def check_crop(crop: str, name: str) -> None:
  """Raises UserError, which calls the value `name`, unless `crop` is one of CROPS."""
  _check_choice(crop, CROPS, name)


def check_pixels(pixels: str, name: str) -> None:
  """Raises UserError, which calls the value `name`, unless `pixels` is a key of PIXELS."""
  _check_choice(pixels, PIXELS, name)


def _check_choice(value: str, allowed: Iterable[str], name: str) -> None:
  if value not in allowed:
    raise UserError(f"{name}={value!r} is unknown; use {' or '.join(allowed)}")


def resize_normalize(
  frame: UInt8[np.ndarray, "h w 3"],
  size: int,
  out: Float32[np.ndarray, "s s 3"] | None = None,
  crop: str = "squash",
) -> Float32[np.ndarray, "s s 3"]:
  """Resizes a frame to a square and normalizes its colours as CLIP does.

  Bicubic without antialiasing, equal to `torch.nn.functional.interpolate(mode="bicubic")` on floats:
  cv2.INTER_CUBIC has the same kernel (a = -0.75), half-pixel centres and replicated borders. As there, and unlike
  resizing of uint8, overshoot beyond [0, 1] is kept. (`jax.image.resize` has a = -0.5 and antialiases.)

  Args:
    frame: RGB.
    size: S in pixels, at least 1.
    out: C-contiguous array to fill, for example a slice of a batch; None allocates one.
    crop: one of CROPS.

  Returns:
    (resized / 255 - MEAN) / STD; `out` itself if given.

  Raises:
    UserError: `frame` or `out` has a wrong dtype or shape, `size` is below 1, or `crop` is unknown.
  """
  out = _check_frame_and_output(frame, size, out, np.float32)
  _resize(frame, size, out, crop)
  scale, shift = _row_affine(size)
  rows = out.reshape(size, size * 3)
  rows *= scale
  rows -= shift
  return out


def resize_uint8(
  frame: UInt8[np.ndarray, "h w 3"],
  size: int,
  out: UInt8[np.ndarray, "s s 3"] | None = None,
  crop: str = "squash",
) -> UInt8[np.ndarray, "s s 3"]:
  """Resizes a frame to a square by the filter of `resize_normalize`, and rounds it to [0, 255].

  Overshoot is cut off. `device_normalization.normalize` normalizes the result.

  Args:
    frame: RGB.
    size: S in pixels, at least 1.
    out: C-contiguous array to fill; None allocates one.
    crop: one of CROPS.

  Raises:
    UserError: as `resize_normalize`.
  """
  out = _check_frame_and_output(frame, size, out, np.uint8)
  _resize(frame, size, out, crop)
  return out


# Data types of the pixels of a batch, and the function that resizes a frame to them.
PIXELS = {"float32": resize_normalize, "uint8": resize_uint8}


def _check_frame_and_output(frame: np.ndarray, size: int, out: np.ndarray | None, dtype: npt.DTypeLike) -> np.ndarray:
  """Returns `out`, or a new [S, S, 3] array; raises UserError for what `resize_normalize` rejects, except `crop`."""
  if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or frame.size == 0:
    raise UserError(f"expected a uint8 frame [height, width, 3], got {frame.dtype} {list(frame.shape)}")
  if size < 1:
    raise UserError(f"cannot resize a frame to {size} x {size} pixels; the size must be at least 1")
  if out is None:
    return np.empty((size, size, 3), dtype)
  if out.dtype != dtype or out.shape != (size, size, 3) or not out.flags.c_contiguous:
    expected = f"a C-contiguous {np.dtype(dtype)} output [{size}, {size}, 3]"
    raise UserError(f"expected {expected}, got {out.dtype} {list(out.shape)}")
  return out


def _resize(frame: UInt8[np.ndarray, "h w 3"], size: int, out: np.ndarray, crop: str) -> None:
  """Fills `out` with the resized frame, in the range [0, 255] and in the arithmetic of its dtype."""
  import cv2

  check_crop(crop, "crop")
  convert = _to_float if out.dtype == np.float32 else np.asarray
  if crop == "squash":
    cv2.resize(convert(frame), (size, size), dst=out, interpolation=cv2.INTER_CUBIC)
    return
  frame = _limit_aspect(frame)
  (height, width), (top, left) = center_crop(frame.shape[0], frame.shape[1], size)
  resized = cv2.resize(convert(frame), (width, height), interpolation=cv2.INTER_CUBIC)
  np.copyto(out, resized[top : top + size, left : left + size])


def center_crop(height: int, width: int, size: int) -> tuple[tuple[int, int], tuple[int, int]]:
  """Computes the centre crop of a frame to `size` x `size` pixels.

  Rounds as torchvision's Resize(size) and CenterCrop(size), which CLIP and OpenCLIP use: lengths down, offsets to the
  nearest integer, halves to the even one. (HuggingFace's CLIPImageProcessor rounds offsets down.)

  Returns:
    (height, width) of the resized frame, and (top, left) of the square in it.
  """
  resized_height, resized_width = (int(size * side / min(height, width)) for side in (height, width))
  return (resized_height, resized_width), (round((resized_height - size) / 2), round((resized_width - size) / 2))


def _limit_aspect(frame: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h2 w2 3"]:
  """Cuts both ends of a frame longer than _MAX_ASPECT, of which a crop needs the centre: resized, it would be huge."""
  length = _MAX_ASPECT * min(frame.shape[:2])
  top, left = (max(0, (side - length) // 2) for side in frame.shape[:2])
  return frame[top : top + length, left : left + length]


def crop_frame(frame: UInt8[np.ndarray, "h w 3"], crop: str) -> UInt8[np.ndarray, "h2 w2 3"]:
  """Returns the part of a frame that `resize_normalize` keeps, in the frame's own pixels."""
  if crop == "squash":
    return frame
  side = min(frame.shape[:2])
  _, (top, left) = center_crop(frame.shape[0], frame.shape[1], side)
  return frame[top : top + side, left : left + side]


def _to_float(frame: UInt8[np.ndarray, "h w 3"]) -> Float32[np.ndarray, "h w 3"]:
  """Converts a frame to float32 in a buffer that the thread reuses for its next frame."""
  if frame.size > _MAX_BUFFER_SIZE:
    return frame.astype(np.float32)
  buffer = getattr(_thread_local, "buffer", None)
  if buffer is None or buffer.size < frame.size:
    buffer = _thread_local.buffer = np.empty(frame.size, np.float32)
  values = buffer[: frame.size].reshape(frame.shape)
  np.copyto(values, frame)
  return values


def limit_threads() -> None:
  """Restricts OpenCV to the calling thread, for worker processes: one per core."""
  import cv2

  cv2.setNumThreads(0)


def affine() -> tuple[Float32[np.ndarray, "3"], Float32[np.ndarray, "3"]]:
  """Returns scale and shift of red, green and blue, with (x / 255 - MEAN) / STD = x * scale - shift."""
  mean, std = np.array(MEAN), np.array(STD)
  return (1 / (255 * std)).astype(np.float32), (mean / std).astype(np.float32)


@functools.lru_cache(maxsize=8)
def _row_affine(size: int) -> tuple[np.ndarray, np.ndarray]:
  """Returns `affine` for a row, each float32 [size * 3].

  For a whole row, because NumPy broadcasts over a last axis of 3 about seven times slower than over one of 672.
  """
  scale, shift = (np.tile(values, size) for values in affine())
  scale.setflags(write=False)  # shared by all callers
  shift.setflags(write=False)
  return scale, shift
