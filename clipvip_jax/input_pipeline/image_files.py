"""Image files to pixels, upright."""

import io
import math
import os
import pathlib
import re

import numpy as np

from clipvip_jax.input_pipeline import preprocessing
from clipvip_jax.input_pipeline.video_decoder import VideoError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")

_HEADER = 2**20  # bytes: what a camera says of a picture stands before it
_JPEG_START = b"\xff\xd8\xff"
# What EXIF's orientation asks for: (mirror left to right first, then quarter turns counter-clockwise).
_ORIENTATIONS = {2: (True, 0), 3: (False, 2), 4: (True, 2), 5: (True, 1), 6: (False, 3), 7: (True, 3), 8: (False, 1)}


def read_image(path: str | os.PathLike[str]) -> np.ndarray:
  """`decode_image` of a file. Raises UserError for one that cannot be read."""
  try:
    data = pathlib.Path(path).read_bytes()
  except OSError as error:
    raise VideoError(path, f"cannot be read: {error.strerror}") from error
  return decode_image(data, os.fspath(path))


def images_in(folder: pathlib.Path) -> list[pathlib.Path]:
  """The images directly in a folder as frames in order; hidden ones are left out. Raises VideoError where none is."""
  named = [f for f in folder.iterdir() if f.suffix.lower() in IMAGE_SUFFIXES and not f.name.startswith(".")]
  files = [f for f in named if not f.is_dir()]  # a link to nowhere is a frame that is missing, which reading it says
  if not files:
    raise VideoError(folder, f"the folder holds no frames ({', '.join(IMAGE_SUFFIXES)})")
  return sorted(files, key=_natural)


def decode_image(data: bytes, name: str = "an image") -> np.ndarray:
  """JPEG, PNG, WebP or BMP to uint8 RGB [H, W, 3], turned as the camera noted.

  A damaged JPEG is refused as `pixels.decode_jpeg` does. Transparency is ignored.

  Args:
    data: the bytes of the file; they decide what it is, its name does not.
    name: what the bytes are, for the message.

  Raises:
    UserError: it is none of these, damaged, or larger than pixels.MAX_PIXELS.
  """
  if is_jpeg(data):
    picture, turn = preprocessing.decode_jpeg(data, name), orientation(data)
  else:
    picture, turn = _decode_other(data, name), 1  # OpenCV turns these itself
  mirror, turns = _ORIENTATIONS.get(turn, (False, 0))
  return np.rot90(picture[:, ::-1] if mirror else picture, turns)


def fit_size(height: int, width: int, max_height: float, max_width: float) -> tuple[int, int]:
  """Returns the (height, width) of the largest image with the same aspect ratio that fits into a box, in pixels."""
  if width * max_height <= height * max_width:
    return max(1, int(max_height)), max(1, round(width * max_height / height))
  return max(1, round(height * max_width / width)), max(1, int(max_width))


def shrink_to_fit(image: np.ndarray, *, max_height: float = math.inf, max_width: float = math.inf) -> np.ndarray:
  """Scales an image down by area averaging, aspect kept, until it fits; never up.

  Args:
    image: uint8 [H, W, 3].
    max_height: in pixels.
    max_width: in pixels.

  Returns:
    uint8 [h, w, 3] with h <= max_height and w <= max_width; `image` itself if it fits already.
  """
  import cv2

  height, width = image.shape[:2]
  if height <= max_height and width <= max_width:
    return image
  height, width = fit_size(height, width, max_height, max_width)
  return cv2.resize(np.ascontiguousarray(image), (width, height), interpolation=cv2.INTER_AREA)


def is_jpeg(data: bytes) -> bool:
  """Whether the bytes begin as a JPEG file does."""
  return data.startswith(_JPEG_START)


def orientation(data: bytes) -> int:
  """How a camera was held, EXIF's 1 (upright) to 8; 1 where nothing, or nothing valid, is said."""
  if b"Exif\0\0" not in data[:_HEADER]:
    return 1
  from PIL import Image

  try:
    with Image.open(io.BytesIO(data)) as image:
      return int(image.getexif().get(0x0112, 1))
  except Exception:  # damaged tags in an image whose pixels are whole: libraries raise anything
    return 1


def _decode_other(data: bytes, name: str) -> np.ndarray:
  import cv2
  from PIL import Image, UnidentifiedImageError

  try:
    with Image.open(io.BytesIO(data)) as image:  # its header alone: the size is known before anything is unpacked
      width, height = image.size
    if width * height > preprocessing.MAX_PIXELS:
      raise VideoError(
        name, f"{width} x {height} pixels are more than the {preprocessing.MAX_PIXELS} that a frame may have"
      )
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
  except (cv2.error, UnidentifiedImageError, Image.DecompressionBombError, OSError, ValueError, SyntaxError):
    picture = None
  if picture is None:
    raise VideoError(name, "is no valid JPEG, PNG, WebP or BMP")
  return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)


def _natural(path: pathlib.Path) -> tuple[list[tuple[str, int]], str]:
  """frame_2 before frame_10; the name itself decides between frame_1 and frame_01."""
  parts = re.split("([0-9]+)", path.name)  # texts and numbers in turn
  return [(text, int(number)) for text, number in zip(parts[::2], [*parts[1::2], "0"], strict=True)], path.name
