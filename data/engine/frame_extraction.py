"""From a video file, an image or a folder of frames to the frames that a corpus stores.

This runs in the decoding process: neither JAX nor TensorFlow nor TFDS nor Beam is imported here.
"""

from __future__ import annotations

import dataclasses
import importlib
import itertools
import math
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import numpy as np

from clipvip_jax.input_pipeline import image_files, video_decoder
from clipvip_jax.input_pipeline.frame_sampling import uniform_frames
from clipvip_jax.input_pipeline.video_decoder import Picture, VideoError
from clipvip_jax.utils.errors import UserError
from data.engine.records import encode_jpeg


class Decoder(Protocol):
  """Pictures of a file in the order of time, from at or before `start` (seconds) to before `end`; VideoError if bad."""

  def __call__(self, path: str, start: float | None, end: float | None) -> Iterator[Picture]: ...


# Another decoder is a row here, or is named as "MODULE:FUNCTION".
DECODERS: dict[str, Decoder] = {"pyav": video_decoder.iterate_pictures}


MOST_BYTES, MOST_FRAMES = 2**29, 100_000  # of a stored clip


class TooShort(VideoError):
  """A clip with fewer frames than a corpus asks for."""


@dataclasses.dataclass(frozen=True)
class FrameSettings:
  """What is done to pixels when a corpus is built.

  fps: frames a second, each as it is seen at its moment, whatever the file's own rate; 0: every frame of the file.
  frames: this many, evenly spread from first to last, in place of `fps`; 0: by `fps`. Folders of frames have no
  times: all are taken, or `frames` of them. short_side: larger frames are shrunk until their shorter side has
  this many pixels; 0: kept. jpeg_quality: 1 to 100, 4:2:0. min_frames: of a video; fewer make it too short.
  """

  fps: float = 0.0
  frames: int = 0
  short_side: int = 256
  jpeg_quality: int = 92
  min_frames: int = 1

  def check(self) -> None:
    """Raises UserError for numbers that mean nothing."""
    bounds = {"fps": 1000, "frames": 100_000, "short_side": 16_384, "jpeg_quality": 100, "min_frames": 100_000}
    for name, most in bounds.items():
      least = 1 if name in ("jpeg_quality", "min_frames") else 0
      if not least <= getattr(self, name) <= most:
        raise UserError(f"{name}={getattr(self, name)}: allowed are {least} to {most}")
    if self.fps and self.frames:
      raise UserError(f"fps={self.fps} and frames={self.frames}: give one of them, and 0 for the other")

  def describe(self) -> str:
    """In words, for the data set's metadata."""
    rate = f"{self.fps:g} frames a second" if self.fps else "every frame"
    which = f"{self.frames} frames evenly spread" if self.frames else rate
    size = f"shorter side at most {self.short_side} pixels (area averaging)" if self.short_side else "size kept"
    return f"{which}; {size}; aspect kept; JPEG of quality {self.jpeg_quality}, 4:2:0"


def decoder_by_name(name: str) -> Decoder:
  """A decoder by its name in DECODERS, or as "MODULE:FUNCTION". Raises UserError for one that is not there."""
  if name in DECODERS:
    return DECODERS[name]
  module, _, function = name.partition(":")
  try:
    return getattr(importlib.import_module(module), function)
  except (ImportError, AttributeError, ValueError, TypeError) as error:
    raise UserError(
      f"decoder={name!r} is unknown ({error}); allowed: {', '.join(DECODERS)} or MODULE:FUNCTION"
    ) from error


def stored_frames(
  path: str, stored: FrameSettings, decode: Decoder, start: float | None = None, end: float | None = None
) -> list[bytes]:
  """The JPEG frames that a corpus keeps of a video file, an image or a folder of frames.

  Raises:
    TooShort: fewer than `stored.min_frames`, or nothing between `start` and `end`.
    VideoError, UserError: it is not there, or cannot be decoded.
  """
  place = pathlib.Path(path)
  is_still = place.suffix.lower() in image_files.IMAGE_SUFFIXES
  if (start is not None or end is not None) and (is_still or place.is_dir()):
    raise VideoError(path, "images and folders of frames have no times, so there is no part from start to end")
  if place.is_dir():
    files = image_files.images_in(place)
    _check_length(path, len(files), stored)
    chosen = [files[i] for i in uniform_frames(len(files), stored.frames)] if stored.frames else files
    return list(_limited(path, (image_frame(_read(file), stored, str(file)) for file in chosen)))
  if is_still:
    return [image_frame(_read(place), stored, path)]
  return list(_limited(path, _of_video(path, stored, decode, start, end)))


def _limited(path: str, frames: Iterable[bytes]) -> Iterator[bytes]:
  """Refuses a clip that would fill the memory: hours of frames, or a time stamp that jumps."""
  size = 0
  for count, frame in enumerate(frames, 1):
    size += len(frame)
    if size > MOST_BYTES or count > MOST_FRAMES:
      raise VideoError(
        path,
        f"a clip of more than {MOST_BYTES / 2**20:g} MiB or {MOST_FRAMES} frames; give start and end, fewer frames a"
        " second, or a smaller short_side",
      )
    yield frame


def _check_length(path: str, count: int, stored: FrameSettings) -> None:
  least = max(stored.min_frames, 1)
  if count < least:
    raise TooShort(path, f"{count} frames, at least {least} are asked for")


def image_frame(data: bytes, stored: FrameSettings, name: str) -> bytes:
  """One image as a stored frame. An upright JPEG that needs no shrinking is stored as it is, without another loss."""
  picture = image_files.decode_image(data, name)
  if (
    image_files.is_jpeg(data)
    and image_files.orientation(data) == 1
    and _target(picture.shape, stored.short_side) is None
  ):
    return data
  return _frame(picture, stored)


def _read(path: pathlib.Path) -> bytes:
  try:
    return path.read_bytes()
  except FileNotFoundError:
    raise VideoError(path, video_decoder.NO_SUCH_FILE) from None
  except OSError as error:
    raise VideoError(path, f"cannot be read: {error.strerror}") from error


def _of_video(
  path: str, stored: FrameSettings, decode: Decoder, start: float | None, end: float | None
) -> Iterator[bytes]:
  pictures = _within(decode(path, start, end), start)
  if stored.frames:
    count = sum(1 for _ in pictures)  # decoded twice: the number of frames is known only at the end
    _check_length(path, count, stored)
    yield from _at(_within(decode(path, start, end), start), uniform_frames(count, stored.frames), stored)
    return
  if stored.fps:
    frames = _at_moments(pictures, stored, start, end)
  else:
    frames = (_frame(picture.rgb(), stored) for picture in pictures)
  count = 0
  for count, frame in enumerate(frames, 1):  # noqa: B007  # the last number is used
    yield frame
  _check_length(path, count, stored)


def _within(pictures: Iterable[Picture], start: float | None) -> Iterator[Picture]:
  """Without those that are over before `start`."""
  return (p for p in pictures if start is None or p.seconds + p.shown_for > start + _MOMENT)


_MOMENT = 1.1e-3  # seconds; Matroska rounds time stamps to 1 ms


def _at(pictures: Iterable[Picture], wanted: Any, stored: FrameSettings) -> Iterator[bytes]:
  """Frames by index, which never decreases and may repeat."""
  source, index, jpeg = iter(pictures), -1, b""
  for target in wanted:
    if target > index:
      for picture in source:
        index += 1
        if index == target:
          jpeg = _frame(picture.rgb(), stored)
          break
    yield jpeg


def _at_moments(
  pictures: Iterable[Picture], stored: FrameSettings, start: float | None, end: float | None
) -> Iterator[bytes]:
  """What is seen at start, start + 1 / fps, ...: at each moment the last picture that has begun by then."""
  taken, begin = 0, None
  for picture in pictures:
    begin = max(picture.seconds, start or picture.seconds) if begin is None else begin
    until = picture.seconds + picture.shown_for
    moments = _moments(begin, until if end is None else min(until, end), stored.fps) - taken
    if moments > 0:
      taken += moments
      yield from itertools.repeat(_frame(picture.rgb(), stored), moments)


def _moments(begin: float, until: float, fps: float) -> int:
  """How many of the moments begin + k / fps lie before `until`."""
  return math.ceil((until - begin - _MOMENT) * fps)


def _frame(picture: np.ndarray, stored: FrameSettings) -> bytes:
  import cv2

  target = _target(picture.shape, stored.short_side)
  if target is not None:
    picture = cv2.resize(np.ascontiguousarray(picture), target, interpolation=cv2.INTER_AREA)
  return encode_jpeg(picture, stored.jpeg_quality)


def _target(shape: tuple[int, ...], short_side: int) -> tuple[int, int] | None:
  """(width, height) to shrink to; None where the frame is small enough."""
  height, width = shape[:2]
  shorter = min(height, width)
  if not short_side or shorter <= short_side:
    return None
  return max(1, round(width * short_side / shorter)), max(1, round(height * short_side / shorter))
