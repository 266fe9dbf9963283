"""Image decoding (JPEG, PNG, WebP, BMP; EXIF orientation applied) and downscaling."""

import io
import math
import os
import pathlib
import re

import numpy as np
from jaxtyping import UInt8

from clipvip_jax.input_pipeline import preprocessing
from clipvip_jax.input_pipeline.media_error import MediaError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")

_EXIF_SEARCH_BYTES = 2**20  # EXIF data is within the first MiB
_JPEG_MAGIC = b"\xff\xd8\xff"
# EXIF orientation -> (mirror horizontally first, then quarter turns counter-clockwise).
_ORIENTATIONS = {2: (True, 0), 3: (False, 2), 4: (True, 2), 5: (True, 1), 6: (False, 3), 7: (True, 3), 8: (False, 1)}
_ORIENTATION_TAG = 0x0112


def read_image(path: str | os.PathLike[str]) -> UInt8[np.ndarray, "h w 3"]:
  """Reads and decodes an image file; see `decode_image`.

  Raises:
    UserError: the file cannot be read or decoded.
  """
  try:
    data = pathlib.Path(path).read_bytes()
  except OSError as error:
    raise MediaError(path, f"cannot be read: {error.strerror}") from error
  return decode_image(data, os.fspath(path))


def list_images(folder: pathlib.Path) -> list[pathlib.Path]:
  """Lists the image files directly in a folder in natural order (frame_2 before frame_10), without hidden files.

  Raises:
    MediaError: the folder has no images.
  """
  images = [file for file in folder.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES and file.name[0] != "."]
  images = [file for file in images if not file.is_dir()]  # keeps broken links: reading them reports the missing frame
  if not images:
    raise MediaError(folder, f"the folder holds no frames ({', '.join(IMAGE_SUFFIXES)})")
  return sorted(images, key=_natural_order)


def decode_image(data: bytes, name: str = "an image") -> UInt8[np.ndarray, "h w 3"]:
  """Decodes an image to RGB and applies its EXIF orientation; ignores transparency.

  Args:
    data: content of an image file, whose format is detected from the bytes.
    name: of the image, for error messages.

  Raises:
    UserError: the format is not supported, or the image is corrupt (see `preprocessing.decode_jpeg`) or larger than
      `preprocessing.MAX_PIXELS`.
  """
  if is_jpeg(data):
    image, exif_orientation = preprocessing.decode_jpeg(data, name), orientation(data)
  else:
    image, exif_orientation = _decode_other(data, name), 1  # OpenCV applies the orientation itself
  mirror, quarter_turns = _ORIENTATIONS.get(exif_orientation, (False, 0))
  return np.rot90(image[:, ::-1] if mirror else image, quarter_turns)


def is_jpeg(data: bytes) -> bool:
  """Returns whether the data starts with a JPEG signature."""
  return data.startswith(_JPEG_MAGIC)


def orientation(data: bytes) -> int:
  """Returns the EXIF orientation of a JPEG, 1 (upright) to 8; 1 if the tag is missing or invalid."""
  if b"Exif\0\0" not in data[:_EXIF_SEARCH_BYTES]:
    return 1
  from PIL import Image

  try:
    with Image.open(io.BytesIO(data)) as image:
      return int(image.getexif().get(_ORIENTATION_TAG, 1))
  except Exception:  # corrupt tags raise exceptions of any type; the pixels may be valid
    return 1


def fit_size(height: int, width: int, max_height: float, max_width: float) -> tuple[int, int]:
  """Returns the (height, width) of the largest image with the same aspect ratio that fits into a box, in pixels."""
  if width * max_height <= height * max_width:
    return max(1, int(max_height)), max(1, round(width * max_height / height))
  return max(1, round(height * max_width / width)), max(1, int(max_width))


def shrink_to_fit(
  image: UInt8[np.ndarray, "h w 3"], *, max_height: float = math.inf, max_width: float = math.inf
) -> UInt8[np.ndarray, "h2 w2 3"]:
  """Downscales an image by area averaging until it fits into a box; keeps the aspect ratio and never upscales.

  Args:
    image: RGB.
    max_height: of the result, in pixels.
    max_width: of the result, in pixels.

  Returns:
    The downscaled image; `image` itself if it fits already.
  """
  import cv2

  height, width = image.shape[:2]
  if height <= max_height and width <= max_width:
    return image
  height, width = fit_size(height, width, max_height, max_width)
  return cv2.resize(np.ascontiguousarray(image), (width, height), interpolation=cv2.INTER_AREA)


def _decode_other(data: bytes, name: str) -> UInt8[np.ndarray, "h w 3"]:
  """Decodes PNG, WebP and BMP."""
  import cv2
  from PIL import Image, UnidentifiedImageError

  try:
    with Image.open(io.BytesIO(data)) as image:  # parses the header only: the size is checked before decompression
      width, height = image.size
    if width * height > preprocessing.MAX_PIXELS:
      raise MediaError(
        name, f"{width} x {height} pixels are more than the {preprocessing.MAX_PIXELS} that a frame may have"
      )
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
  except (cv2.error, UnidentifiedImageError, Image.DecompressionBombError, OSError, ValueError, SyntaxError):
    decoded = None
  if decoded is None:
    raise MediaError(name, "not a valid JPEG, PNG, WebP or BMP image")
  return cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB)


def _natural_order(path: pathlib.Path) -> tuple[list[tuple[str, int]], str]:
  """Sort key that compares runs of digits as numbers; the name itself orders frame_1 and frame_01."""
  tokens = re.split("([0-9]+)", path.name)  # text and digits alternate
  return [(text, int(number)) for text, number in zip(tokens[::2], [*tokens[1::2], "0"], strict=True)], path.name
