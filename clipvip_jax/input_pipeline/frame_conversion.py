"""Conversion of decoded frames to RGB: upright, SDR, and composed on white."""

import functools
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import UInt8

from clipvip_jax.input_pipeline import image_files, media_notes, tone_mapping
from clipvip_jax.input_pipeline.media_error import MediaError
from clipvip_jax.utils.allocator import keep_freed_memory

if TYPE_CHECKING:
  from av import VideoFormat, VideoFrame

# FFmpeg's name: (dtype, channels, bytes of a value).
_PIXEL_FORMATS: dict[str, tuple[np.dtype, int, int]] = {
  "rgb24": (np.dtype("u1"), 3, 1),
  "rgba": (np.dtype("u1"), 4, 1),
  "rgb48le": (np.dtype("<u2"), 3, 2),
}


class FrameConverter:
  """Converts the frames of a video to RGB of one size, with one FFmpeg converter for all of them."""

  def __init__(self, width: int, height: int, *, empty_alpha: bool = True, path: str | os.PathLike[str] | None = None):
    """Creates a converter.

    Args:
      width: of all results in pixels, before rotation: a stream may change its size midway.
      height: likewise.
      empty_alpha: whether a frame can be entirely transparent. In AVI it cannot: capture programs leave alpha at 0.
      path: of the file, for the orientation of an image with EXIF.
    """
    import av

    keep_freed_memory()
    # to_ndarray(format=...) creates a converter, with its threads, per frame.
    self._converter = av.video.reformatter.VideoReformatter()
    self._width, self._height, self._empty_alpha, self._path = width, height, empty_alpha, path
    self._is_oriented = False
    self._orient: Callable[[np.ndarray], np.ndarray] | None = None

  def to_rgb(self, frame: "VideoFrame") -> UInt8[np.ndarray, "h w 3"]:
    """Returns a frame as a player shows it on a white page.

    HDR (PQ, HLG) is tone-mapped and noted as "hdr"; the display matrix, which phones store, is applied, as rotation and
    mirroring.
    """
    if transfer := tone_mapping.hdr_transfer(frame.color_trc):
      media_notes.add_note("hdr")
      picture = tone_mapping.tone_map(self._convert(frame, "rgb48le"), transfer)
    else:
      picture = self._convert(frame, "rgb24")
    if _has_alpha(frame.format.name):
      alpha = self._convert(frame, "rgba")[..., 3]
      if self._empty_alpha or alpha.any():
        picture = image_files.compose_on_white(picture, alpha)
    self.set_orientation(frame)
    return self._orient(picture) if self._orient else picture

  def set_orientation(self, frame: "VideoFrame") -> None:
    """Takes the orientation of all frames from the first one; H.264 and HEVC may store it for key frames alone."""
    if not self._is_oriented:
      self._is_oriented, self._orient = True, self._orientation(frame)

  def _orientation(self, frame: "VideoFrame") -> Callable[[np.ndarray], np.ndarray] | None:
    """Returns a function that turns pictures upright; None if they are.

    Not called for every frame: a frame that has given out its side data is freed only by Python's garbage collector, so
    that memory would fill with frames.
    """
    try:
      side_data: Any = frame.side_data
    except ValueError:  # side data that PyAV before 19 does not know, such as EXIF
      orientation = image_files.read_orientation(self._path) if self._path else None
      if orientation is None:  # no image that Pillow reads: mirroring is unknown
        return functools.partial(np.rot90, k=round(frame.rotation / 90) % 4)
      return functools.partial(image_files.apply_orientation, orientation=orientation)
    matrix = side_data.get("DISPLAYMATRIX")
    if matrix is None:
      return None
    return functools.partial(_apply_display_matrix, matrix=tuple(np.frombuffer(bytes(matrix), np.int32).tolist()))

  def _convert(self, frame: "VideoFrame", pixel_format: str) -> np.ndarray:
    video_format: Any = _video_format(pixel_format)  # looking up its name, which PyAV's types require, takes longer
    try:
      converted = self._converter.reformat(frame, self._width, self._height, video_format, threads=1)
    except (ValueError, OSError) as error:
      description = f"{frame.format.name}, matrix {int(frame.colorspace)} of ITU-T H.273"
      raise MediaError(
        self._path or "a frame", f"its pictures ({description}) cannot be converted to RGB; convert it to BT.709"
      ) from error
    plane: Any = converted.planes[0]
    dtype, channels, bytes_per_value = _PIXEL_FORMATS[pixel_format]
    shape, bytes_per_pixel = (self._height, self._width, channels), channels * bytes_per_value
    # As frame.to_ndarray(), whose checks take longer than the decoding of a small frame.
    if plane.line_size == self._width * bytes_per_pixel:
      return np.ndarray(shape, dtype, plane)
    return np.ndarray(shape, dtype, plane, strides=(plane.line_size, bytes_per_pixel, bytes_per_value))


@functools.cache
def _video_format(pixel_format: str) -> "VideoFormat":
  import av

  return av.VideoFormat(pixel_format)


@functools.cache
def _has_alpha(pixel_format: str) -> bool:
  video_format = _video_format(pixel_format)
  return video_format.has_palette or any(component.is_alpha for component in video_format.components)


def _apply_display_matrix(picture: UInt8[np.ndarray, "h w 3"], matrix: Sequence[int]) -> UInt8[np.ndarray, "h2 w2 3"]:
  """Rotates and mirrors a picture by a display matrix, rounded to quarter turns.

  The matrix maps a pixel (x, y) to (a x + c y, b x + d y).
  """
  a, b, _, c, d = matrix[:5]
  if abs(b) + abs(c) > abs(a) + abs(d):
    picture, a, d = picture.transpose(1, 0, 2), c, b
  return picture[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
