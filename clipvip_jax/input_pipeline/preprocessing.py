"""From stored JPEG bytes to the pixels that CLIP's vision tower expects.

NumPy only: this runs in loader processes. Batches are written in place, since memory that is fresh for each frame costs
more than resizing it.
"""

import functools
import threading

import numpy as np

from clipvip_jax.utils.errors import UserError

# Mean and standard deviation of red, green and blue in [0, 1] over CLIP's training images; its checkpoints
# expect them. Published with CLIP (Radford et al., 2021, arXiv 2103.00020; `clip/clip.py:_transform`).
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)

# Twice a frame of 8K video. A damaged header can claim 12 GB of pixels, all filled before the damage shows.
MAX_PIXELS = 2**26

# Values of the largest frame that a thread keeps memory for between frames: 1080p.
_KEPT_VALUES = 1920 * 1088 * 3
_kept = threading.local()


def decode_jpeg(data: bytes, name: str = "a frame", fast_side: int = 0) -> np.ndarray:
  """Decodes one JPEG image; grey images get three equal channels.

  Damage that libjpeg-turbo can only warn about (a missing end, a broken marker, left-over bits) is an error,
  not a frame half grey. JPEG has no checksum, though: changed bytes that still spell valid codes decode
  unnoticed.

  Args:
    data: the bytes of a JPEG file.
    name: what the bytes are, for the message ("frame 3 of video7").
    fast_side: 0 decodes exactly. Otherwise libjpeg's fast transform and upsampling are used, and an image whose sides
      are all at least twice this is decoded at a fraction of its size that keeps them above it: other pixels.

  Returns:
    uint8 [H, W, 3], red first.

  Raises:
    UserError: `data` is no complete JPEG, or its header claims more than MAX_PIXELS.
  """
  import simplejpeg

  try:
    height, width, *_ = simplejpeg.decode_jpeg_header(data)
    if height * width > MAX_PIXELS:
      raise ValueError(f"{width} x {height} pixels are more than the {MAX_PIXELS} that a frame may have")
    if not fast_side:
      return simplejpeg.decode_jpeg(data, colorspace="RGB", strict=True)
    least = {"min_height": fast_side, "min_width": fast_side, "min_factor": 2}
    return simplejpeg.decode_jpeg(data, colorspace="RGB", strict=True, fastdct=True, fastupsample=True, **least)
  except (TypeError, ValueError) as error:
    held = f"{len(data)} bytes" if isinstance(data, bytes | bytearray | memoryview) else type(data).__name__
    raise UserError(f"{name} ({held}) is no valid JPEG: {error}; store the frame again or leave it out") from error


def resize_normalize(frame: np.ndarray, size: int, out: np.ndarray | None = None) -> np.ndarray:
  """Squashes a frame to a square, its aspect not kept, and normalises its colours as CLIP does.

  Bicubic without antialiasing, equal to `torch.nn.functional.interpolate(mode="bicubic")` on floats:
  cv2.INTER_CUBIC shares its kernel (a = -0.75), half-pixel centres and repeated borders. Like there, and
  unlike resizing uint8, overshoot beyond [0, 1] is kept. (`jax.image.resize` has a = -0.5 and antialiases.)

  Args:
    frame: uint8 [H, W, 3], red first.
    size: the side S of the result in pixels, at least 1.
    out: float32 [S, S, 3] in one piece, as a place in a batch, to be filled; None: a new array.

  Returns:
    float32 [S, S, 3], which is `out` where given: (resized / 255 - MEAN) / STD.

  Raises:
    UserError: `frame` or `out` has another type or shape, or no pixels, or `size` is below 1.
  """
  import cv2

  if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or frame.size == 0:
    raise UserError(f"a frame must be uint8 [height, width, 3], got {frame.dtype} {list(frame.shape)}")
  if size < 1:
    raise UserError(f"cannot resize a frame to {size} x {size} pixels; the size must be at least 1")
  if out is None:
    out = np.empty((size, size, 3), np.float32)
  elif out.dtype != np.float32 or out.shape != (size, size, 3) or not out.flags.c_contiguous:
    raise UserError(f"pixels go to a float32 [{size}, {size}, 3] in one piece, got {out.dtype} {list(out.shape)}")
  cv2.resize(_as_float(frame), (size, size), dst=out, interpolation=cv2.INTER_CUBIC)
  scale, shift = _row_affine(size)
  rows = out.reshape(size, size * 3)
  rows *= scale
  rows -= shift
  return out


def _as_float(frame: np.ndarray) -> np.ndarray:
  """The frame as float32, in memory that this thread uses again for the next one."""
  if frame.size > _KEPT_VALUES:
    return frame.astype(np.float32)
  kept = getattr(_kept, "values", None)
  if kept is None or kept.size < frame.size:
    kept = _kept.values = np.empty(frame.size, np.float32)
  values = kept[: frame.size].reshape(frame.shape)
  np.copyto(values, frame)
  return values


def limit_threads() -> None:
  """Makes OpenCV use the calling thread alone: for loader processes, whose number fills the cores."""
  import cv2

  cv2.setNumThreads(0)


@functools.lru_cache(maxsize=8)
def _row_affine(size: int) -> tuple[np.ndarray, np.ndarray]:
  """Scale and shift, each float32 [size * 3], with (x / 255 - MEAN) / STD = x * scale - shift for one row.

  A whole row because NumPy broadcasts over a last axis of 3 about seven times slower than over one of 672.
  """
  mean, std = np.array(MEAN), np.array(STD)
  scale, shift = (np.tile(values, size).astype(np.float32) for values in (1 / (255 * std), mean / std))
  scale.setflags(write=False)  # shared by all callers
  shift.setflags(write=False)
  return scale, shift
