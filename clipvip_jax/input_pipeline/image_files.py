"""Image decoding (JPEG, PNG, WebP, BMP; EXIF orientation applied; composed on white) and downscaling."""

import io
import math
import os
import pathlib
import re
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import UInt8

from clipvip_jax.input_pipeline import jpeg_decoder
from clipvip_jax.input_pipeline.media_error import NO_SUCH_FILE, MediaError, file_error_reason
from clipvip_jax.input_pipeline.tone_mapping import hdr_transfer

if TYPE_CHECKING:
  from PIL import Image

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")

_EXIF_SEARCH_BYTES = 2**20  # EXIF data is within the first MiB
_JPEG_MAGIC = b"\xff\xd8\xff"
_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_PAGED_MAGIC = (b"GIF8", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # GIF, TIFF
_WEBP_ANIMATION, _WEBP_ALPHA = 2, 16  # flags of the header VP8X
# EXIF orientation -> (mirror horizontally first, then quarter turns counter-clockwise).
_ORIENTATIONS = {2: (True, 0), 3: (False, 2), 4: (True, 2), 5: (True, 1), 6: (False, 3), 7: (True, 3), 8: (False, 1)}
_ORIENTATION_TAG = 0x0112


def read_image(path: str | os.PathLike[str]) -> UInt8[np.ndarray, "h w 3"]:
  """Reads and decodes an image file; see `decode_image`.

  Raises:
    UserError: the file cannot be read or decoded.
  """
  return decode_image(read_bytes(path), os.fspath(path))


def read_bytes(path: str | os.PathLike[str]) -> bytes:
  """Returns the content of an image file.

  Raises:
    MediaError: the file cannot be read, or is a pipe or device, which might block forever.
  """
  file = pathlib.Path(path)
  try:
    if not file.is_file() and file.exists():
      raise MediaError(path, "not a file")
    return file.read_bytes()
  except FileNotFoundError:
    raise MediaError(path, NO_SUCH_FILE) from None
  except OSError as error:
    raise MediaError(path, f"cannot be read: {file_error_reason(error)}") from error


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
  """Decodes an image of one picture to RGB, applies its EXIF orientation, and composes it on white.

  Args:
    data: content of an image file, whose format is detected from the bytes.
    name: of the image, for error messages.

  Raises:
    UserError: the format is not supported, or the image is animated, corrupt (see `jpeg_decoder.decode_jpeg`) or
      larger than `jpeg_decoder.MAX_PIXELS`.
  """
  if is_jpeg(data):
    image, exif_orientation = jpeg_decoder.decode_jpeg(data, name), orientation(data)
  else:
    image, exif_orientation = _decode_other(data, name), 1  # has its orientation applied
  return apply_orientation(image, exif_orientation)


def is_still_image(path: pathlib.Path) -> bool:
  """Returns whether a path has the suffix of an image and is not animated: an animated image is a video."""
  if path.suffix.lower() not in IMAGE_SUFFIXES:
    return False
  if not path.is_file():
    return True  # reading the image reports the error
  try:
    with path.open("rb") as file:
      start = file.read(len(_PNG_MAGIC))
      return is_jpeg(start) or not is_animated(start + file.read())
  except OSError:
    return True  # reading the image reports the error


def is_animated(data: bytes) -> bool:
  """Returns whether the data is an image of several pictures."""
  if _has_webp_canvas(data):
    return data.count(b"ANMF") > 1
  if data.startswith(_PNG_MAGIC):
    control = data.find(b"acTL", 0, data.find(b"IDAT"))  # the number of pictures precedes the first of them
    return control > 0 and int.from_bytes(data[control + 4 : control + 8], "big") > 1
  return (data[:4] in _PAGED_MAGIC or _is_container(data)) and count_pictures(data) > 1


def _is_container(data: bytes) -> bool:
  """Returns whether the data starts as an AVIF, a HEIC or a video in MP4 does."""
  return data[4:8] == b"ftyp"


def as_stream(data: bytes) -> io.BytesIO:
  """Returns an image's data for Pillow; sets an animated WebP's flag for transparency.

  Encoders omit the flag if all pictures are opaque, even where these do not fill the canvas.
  """
  return io.BytesIO(data[:20] + bytes((data[20] | _WEBP_ALPHA,)) + data[21:] if _has_webp_canvas(data) else data)


def _has_webp_canvas(data: bytes) -> bool:
  return data[:4] == b"RIFF" and data[8:16] == b"WEBPVP8X" and len(data) > 20 and bool(data[20] & _WEBP_ANIMATION)


def count_pictures(data: bytes) -> int:
  """Returns the number of pictures in a GIF, TIFF or AVIF image; 1 if it is corrupt or has another format."""
  from PIL import Image

  try:
    with Image.open(io.BytesIO(data), formats=("GIF", "TIFF", "AVIF")) as image:
      return getattr(image, "n_frames", 1)
  except (OSError, ValueError, EOFError, SyntaxError, Image.DecompressionBombError):
    return 1


def is_jpeg(data: bytes) -> bool:
  """Returns whether the data starts with a JPEG signature."""
  return data.startswith(_JPEG_MAGIC)


def orientation(data: bytes) -> int:
  """Returns the EXIF orientation of a JPEG, 1 (upright) to 8; 1 if the tag is missing or invalid."""
  if b"Exif\0\0" not in data[:_EXIF_SEARCH_BYTES]:
    return 1
  return read_orientation(io.BytesIO(data)) or 1


def read_orientation(file: str | os.PathLike[str] | io.BytesIO) -> int | None:
  """Returns the EXIF orientation, 1 (upright) to 8, of any image that Pillow reads; None for other files."""
  from PIL import Image

  try:
    with Image.open(file) as image:
      return int(image.getexif().get(_ORIENTATION_TAG, 1))
  except Exception:  # corrupt tags raise exceptions of any type; the pixels may be valid
    return None


def apply_orientation(image: UInt8[np.ndarray, "h w 3"], orientation: int) -> UInt8[np.ndarray, "h2 w2 3"]:
  """Mirrors and rotates an image by its EXIF orientation."""
  mirror, quarter_turns = _ORIENTATIONS.get(orientation, (False, 0))
  return np.rot90(image[:, ::-1] if mirror else image, quarter_turns)


def fit_size(height: int, width: int, max_height: float, max_width: float) -> tuple[int, int]:
  """Returns the (height, width) of the largest image with the same aspect ratio that fits into a box, in pixels."""
  if width * max_height <= height * max_width:
    return max(1, int(max_height)), max(1, round(width * max_height / height))
  return max(1, round(height * max_width / width)), max(1, int(max_width))


def compose_on_white(
  picture: UInt8[np.ndarray, "h w 3"], alpha: UInt8[np.ndarray, "h w"]
) -> UInt8[np.ndarray, "h w 3"]:
  """Composes RGB with an opacity of 0 to 255 on white; returns `picture` itself if all of it is opaque."""
  if alpha.min() == 255:
    return picture
  opacity = alpha.astype(np.uint16)[..., None]
  return ((picture * opacity + 255 * (255 - opacity) + 127) // 255).astype(np.uint8)


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


def pillow_to_rgb(image: "Image.Image") -> UInt8[np.ndarray, "h w 3"]:
  """Converts an image of Pillow to RGB: upright by its EXIF orientation, and on white."""
  from PIL import ImageOps

  image = ImageOps.exif_transpose(image)
  if image.mode.startswith("I;16"):  # Pillow would clip the numbers at 255
    return np.repeat((np.asarray(image) >> 8).astype(np.uint8)[..., None], 3, 2)
  if not image.has_transparency_data:
    return np.asarray(image.convert("RGB"))
  rgba = np.asarray(image.convert("RGBA"))
  return compose_on_white(rgba[..., :3], rgba[..., 3])


def _decode_other(data: bytes, name: str) -> UInt8[np.ndarray, "h w 3"]:
  """Decodes PNG, WebP and BMP: upright, and on white."""
  import cv2
  from PIL import Image, UnidentifiedImageError

  if is_animated(data):
    raise MediaError(name, "an animated image, where one picture is expected; save its pictures as separate images")
  if _is_hdr_png(data):
    raise MediaError(name, "an HDR image (PQ or HLG), which is not supported; convert it to SDR")
  try:
    with Image.open(as_stream(data)) as image:  # parses the header only: the size is checked before decompression
      width, height = image.size
      if width * height > jpeg_decoder.MAX_PIXELS:
        raise MediaError(
          name, f"{width} x {height} pixels are more than the {jpeg_decoder.MAX_PIXELS} that a frame may have"
        )
      if _is_container(data):  # OpenCV does not rotate an AVIF
        return pillow_to_rgb(image)
      if image.has_transparency_data and image.convert("RGBA").getchannel("A").getextrema()[0] != 255:
        return pillow_to_rgb(image)
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
  except (cv2.error, UnidentifiedImageError, Image.DecompressionBombError, OSError, ValueError, SyntaxError):
    decoded = None
  if decoded is None:
    hint = "; it is HEIC or a video: correct its suffix" if _is_container(data) else ""
    raise MediaError(name, f"not a valid JPEG, PNG, WebP or BMP image{hint}")
  return cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB)


def _is_hdr_png(data: bytes) -> bool:
  """Returns whether the chunk cICP of a PNG names an HDR transfer function (ITU-T H.273)."""
  chunk = data.find(b"cICP", 0, data.find(b"IDAT")) if data.startswith(_PNG_MAGIC) else -1
  return chunk > 0 and hdr_transfer(int.from_bytes(data[chunk + 5 : chunk + 6], "big")) is not None


def _natural_order(path: pathlib.Path) -> tuple[list[tuple[str, int]], str]:
  """Returns a sort key that compares runs of digits as numbers; the name itself orders frame_1 and frame_01."""
  tokens = re.split("([0-9]+)", path.name)  # text and digits alternate
  return [(text, int(number)) for text, number in zip(tokens[::2], [*tokens[1::2], "0"], strict=True)], path.name
