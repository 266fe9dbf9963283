"""Image files that Pillow decodes: animated WebP, TIFF, and AVIF with tiles or transparency.

FFmpeg decodes other animations and images, but one tile or one page of those that are refused here, and black pictures
of a TIFF with tiles or JPEG compression.
"""

import contextlib
import os
import pathlib
from collections.abc import Iterator
from typing import Literal

import numpy as np
from jaxtyping import UInt8

from clipvip_jax.input_pipeline import image_files, jpeg_decoder
from clipvip_jax.input_pipeline.media_error import MediaError
from clipvip_jax.input_pipeline.tone_mapping import hdr_transfer
from clipvip_jax.input_pipeline.video_container import open_video

_HEADER_BYTES = 2**16  # hold the description of an AVIF or HEIC image
_DEFAULT_SECONDS = 0.1  # of a picture without a duration, as in browsers
_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# That Pillow converts.
_TIFF_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "I;16", "I;16B")
_COMPRESSION, _TILE_WIDTH, _TIFF_JPEG = 259, 322, (6, 7)
_AVIF_BRANDS, _HEIC_BRANDS = {b"avif", b"avis"}, {b"heic", b"heix", b"heim", b"heis", b"mif1", b"msf1"}
_TILES = (b"grid", b"iovl")
_MIRRORED_WITH_EXIF = (b"imir", b"Exif")
_AUXILIARY_ALPHA = (b"auxiliary:alpha", b"hevc:2015:auxid:1")


def is_for_pillow(path: str | os.PathLike[str]) -> bool:
  """Returns whether `iterate_images` decodes a file, rather than FFmpeg.

  Raises:
    MediaError: a TIFF has several pages, or tiles or JPEG compression that Pillow does not decode; a HEIC image has
      tiles or transparency or is mirrored beside EXIF data; or an AVIF image with tiles or transparency is HDR: none of
      these is supported.
  """
  with pathlib.Path(path).open("rb") as file:
    header = file.read(_HEADER_BYTES)
  if header.startswith(_TIFF_MAGIC):
    pages = image_files.count_pictures(pathlib.Path(path).read_bytes())
    if pages == 1:
      return _is_tiff_for_pillow(path)
    raise MediaError(path, f"a TIFF of {pages} pages, which is not supported; save them as separate images in a folder")
  if header[:4] == b"RIFF" and header[8:12] == b"WEBP":
    return image_files.is_animated(pathlib.Path(path).read_bytes())
  brands = _brands(header) if header[4:8] == b"ftyp" else set()
  description = _meta_box(header) if brands & (_AVIF_BRANDS | _HEIC_BRANDS) else b""
  tiled, transparent = (any(name in description for name in names) for names in (_TILES, _AUXILIARY_ALPHA))
  what = "tiles" if tiled else "transparency" if transparent else ""
  if not brands & _AVIF_BRANDS:
    if not what and all(name in description for name in _MIRRORED_WITH_EXIF):
      what = "a mirrored orientation"
    if what:
      raise MediaError(path, f"a HEIC image with {what}, which is not supported; convert it to JPEG or PNG")
  if what and _is_hdr(path):
    raise MediaError(path, f"an HDR image (PQ or HLG) with {what}, which is not supported; convert it to SDR")
  return bool(what)


def iterate_images(path: str | os.PathLike[str]) -> Iterator[tuple[float, float, UInt8[np.ndarray, "h w 3"]]]:
  """Yields (seconds from the start, seconds shown, RGB upright and on white) of each picture of an image file.

  Raises:
    MediaError: the file is corrupt, or larger than `jpeg_decoder.MAX_PIXELS`.
  """
  from PIL import Image

  seconds = 0.0
  try:
    with Image.open(image_files.as_stream(pathlib.Path(path).read_bytes()), formats=("WEBP", "AVIF", "TIFF")) as image:
      if image.width * image.height > jpeg_decoder.MAX_PIXELS:
        raise MediaError(path, f"{image.width} x {image.height} pixels are more than {jpeg_decoder.MAX_PIXELS}")
      for index in range(getattr(image, "n_frames", 1)):
        image.seek(index)
        picture = image_files.pillow_to_rgb(image)
        shown_for = image.info.get("duration", 0) / 1000 or _DEFAULT_SECONDS
        yield seconds, shown_for, picture
        seconds += shown_for
  except (OSError, ValueError, EOFError, SyntaxError, Image.DecompressionBombError) as error:
    raise MediaError(path, f"corrupt image ({error})") from error


def _is_tiff_for_pillow(path: str | os.PathLike[str]) -> bool:
  """Returns whether Pillow converts the numbers of a TIFF. FFmpeg reads more kinds, but neither tiles nor JPEG."""
  from PIL import Image

  errors = (OSError, ValueError, EOFError, SyntaxError, Image.DecompressionBombError)
  with contextlib.suppress(*errors), Image.open(path, formats=("TIFF",)) as image:
    if image.mode in _TIFF_MODES:
      return True
  tags = _tiff_tags(pathlib.Path(path).read_bytes())
  if _TILE_WIDTH in tags or tags.get(_COMPRESSION) in _TIFF_JPEG:
    raise MediaError(path, "a TIFF with tiles or JPEG compression of unusual numbers, not supported; convert it to PNG")
  return False


def _tiff_tags(data: bytes) -> dict[int, int]:
  """Returns the tags of the first page of a TIFF with their values, as far as these are 16-bit integers."""
  order: Literal["little", "big"] = "little" if data.startswith(b"II") else "big"
  start = int.from_bytes(data[4:8], order)
  entries = (data[start + 2 + 12 * i :][:12] for i in range(int.from_bytes(data[start : start + 2], order)))
  return {int.from_bytes(entry[:2], order): int.from_bytes(entry[8:10], order) for entry in entries}


def _is_hdr(path: str | os.PathLike[str]) -> bool:
  with contextlib.suppress(MediaError), open_video(path) as (_, stream):
    return hdr_transfer(stream.codec_context.color_trc) is not None
  return False


def _brands(header: bytes) -> set[bytes]:
  """Returns the major and the compatible brands of an ISO base media file."""
  size = int.from_bytes(header[:4], "big")
  return {header[8:12], *(header[i : i + 4] for i in range(16, min(size, len(header)), 4))}


def _meta_box(header: bytes) -> bytes:
  """Returns the top-level box "meta", which describes the images; b"" if there is none."""
  begin = 0
  while begin + 8 <= len(header):
    size = int.from_bytes(header[begin : begin + 4], "big")
    if header[begin + 4 : begin + 8] == b"meta":
      return header[begin : begin + size]
    if size < 8:  # 0: until the end of the file; 1: more than 4 GiB
      break
    begin += size
  return b""
