"""Extracts the JPEG frames that a corpus stores from a video file, an image or a folder of frames.

Runs in the decoding process: imports neither JAX nor TensorFlow nor TFDS nor Beam.
"""

from __future__ import annotations

import dataclasses
import importlib
import itertools
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

import numpy as np

from clipvip_jax.data.engine.records import encode_jpeg
from clipvip_jax.input_pipeline import image_files, video_decoder
from clipvip_jax.input_pipeline.frame_sampling import samples_before, uniform_frames, uniform_in_time
from clipvip_jax.input_pipeline.media_error import MediaError
from clipvip_jax.input_pipeline.time_range import NO_TIMES, displayed_span, from_start
from clipvip_jax.input_pipeline.video_decoder import Picture
from clipvip_jax.utils.errors import UserError

MAX_CLIP_BYTES, MAX_CLIP_FRAMES = 2**29, 100_000


class Decoder(Protocol):
  """Yields the pictures of a video in order of time, from at or before `start` to before `end`, both in seconds.

  Raises:
    MediaError: the file cannot be decoded.
  """

  def __call__(self, path: str, start: float | None, end: float | None) -> Iterator[Picture]: ...


# Other decoders are added here, or named as "MODULE:FUNCTION".
DECODERS: dict[str, Decoder] = {"pyav": video_decoder.iterate_pictures}


class TooShortError(MediaError):
  """A clip has fewer frames than a corpus requires."""


@dataclasses.dataclass(frozen=True)
class FrameSettings:
  """How frames are sampled, resized and encoded.

  Attributes:
    fps: frames per second, each as displayed at its time, independent of the file's frame rate; 0: all frames.
    frames: number of frames, evenly spaced in time from the first on, in place of `fps`; 0: use `fps`. Folders of
      frames have no times: `fps` does not apply to them.
    short_side: larger frames are shrunk until their shorter side has this many pixels; 0: never.
    jpeg_quality: 1 to 100.
    min_frames: videos with fewer frames are too short.
  """

  fps: float = 0.0
  frames: int = 0
  short_side: int = 256
  jpeg_quality: int = 92
  min_frames: int = 1

  def check(self) -> None:
    """Raises UserError for a value out of range."""
    limits = {"fps": 1000, "frames": 100_000, "short_side": 16_384, "jpeg_quality": 100, "min_frames": 100_000}
    for name, high in limits.items():
      low = 1 if name in ("jpeg_quality", "min_frames") else 0
      if not low <= getattr(self, name) <= high:
        raise UserError(f"{name}={getattr(self, name)} is out of range; use {low} to {high}")
    if self.fps and self.frames:
      raise UserError(f"fps={self.fps} and frames={self.frames} exclude each other; set one of them to 0")

  def describe(self) -> str:
    """Returns a description for the metadata of the corpus."""
    rate = f"{self.fps:g} frames a second" if self.fps else "every frame"
    sampling = f"{self.frames} frames evenly spread" if self.frames else rate
    size = f"shorter side at most {self.short_side} pixels (area averaging)" if self.short_side else "size kept"
    return f"{sampling}; {size}; aspect kept; JPEG of quality {self.jpeg_quality}, 4:2:0"


def decoder_by_name(name: str) -> Decoder:
  """Returns a decoder of DECODERS, or the function that "MODULE:FUNCTION" names.

  Raises:
    UserError: there is no such decoder.
  """
  if name in DECODERS:
    return DECODERS[name]
  module, _, function = name.partition(":")
  try:
    return getattr(importlib.import_module(module), function)
  except (ImportError, AttributeError, ValueError, TypeError) as error:
    raise UserError(
      f"decoder={name!r} is unknown ({error}); use one of {', '.join(DECODERS)}, or MODULE:FUNCTION"
    ) from error


def extract_frames(
  path: str, settings: FrameSettings, decode: Decoder, start: float | None = None, end: float | None = None
) -> list[bytes]:
  """Returns the JPEG frames of a video file, an image or a folder of frames.

  Args:
    path: local path.
    settings: how frames are sampled, resized and encoded.
    decode: decoder of video files.
    start: start of the clip within a video in seconds; None: start of the video.
    end: end of the clip within a video in seconds; None: end of the video.

  Raises:
    TooShortError: there are fewer than `settings.min_frames` frames, or none from `start` to `end`.
    MediaError, UserError: the file does not exist or cannot be decoded.
  """
  file = pathlib.Path(path)
  is_image = image_files.is_still_image(file)
  if (start is not None or end is not None) and (is_image or file.is_dir()):
    raise MediaError(path, NO_TIMES)
  if file.is_dir():
    images = image_files.list_images(file)
    _check_length(path, len(images), settings)
    sampled = [images[i] for i in uniform_frames(len(images), settings.frames)] if settings.frames else images
    frames = (extract_image(image_files.read_bytes(image), settings, str(image)) for image in sampled)
    return list(_limit_size(path, frames))
  if is_image:
    return [extract_image(image_files.read_bytes(file), settings, path)]
  return list(_limit_size(path, _video_frames(path, settings, decode, start, end)))


def extract_image(data: bytes, settings: FrameSettings, name: str) -> bytes:
  """Returns the JPEG frame of an image; an upright JPEG of sufficiently small size unchanged.

  Args:
    data: content of the image file.
    settings: how frames are resized and encoded.
    name: name of the image for error messages.

  Raises:
    MediaError: the image cannot be decoded.
  """
  picture = image_files.decode_image(data, name)
  shrunk = _shrink(picture, settings.short_side)
  if shrunk is picture and image_files.is_jpeg(data) and image_files.orientation(data) == 1:
    return data
  return encode_jpeg(shrunk, settings.jpeg_quality)


def _limit_size(path: str, frames: Iterable[bytes]) -> Iterator[bytes]:
  """Raises MediaError for a clip that would exhaust memory: hours of frames, or a jump of timestamps."""
  size = 0
  for count, frame in enumerate(frames, 1):
    size += len(frame)
    if size > MAX_CLIP_BYTES or count > MAX_CLIP_FRAMES:
      raise MediaError(
        path,
        f"the clip has more than {MAX_CLIP_BYTES / 2**20:g} MiB or {MAX_CLIP_FRAMES} frames; set start and end, a lower"
        " fps, or a smaller short_side",
      )
    yield frame


def _check_length(
  path: str, count: int, settings: FrameSettings, start: float | None = None, end: float | None = None
) -> None:
  if not count and start and (end is None or end > start):
    raise TooShortError(path, f"start={start:g} is after the end of the video; correct the times of this clip")
  required = max(settings.min_frames, 1)
  if count < required:
    raise TooShortError(path, f"{count} frames, at least {required} are required")


def _video_frames(
  path: str, settings: FrameSettings, decode: Decoder, start: float | None, end: float | None
) -> Iterator[bytes]:
  pictures = from_start(decode(path, start, end), start)
  if settings.frames:
    # Decoded twice: the length is known at the end.
    spans = [displayed_span(picture, start, end) for picture in pictures]
    _check_length(path, len(spans), settings, start, end)
    indices = uniform_in_time([begin for begin, _ in spans], spans[-1][1], settings.frames).tolist()
    yield from _at_indices(from_start(decode(path, start, end), start), indices, settings)
    return
  if settings.fps:
    frames = _at_rate(pictures, settings, start, end)
  else:
    frames = (_encode(picture, settings) for picture in pictures)
  count = 0
  for count, frame in enumerate(frames, 1):  # noqa: B007  # `count` is used after the loop
    yield frame
  _check_length(path, count, settings, start, end)


def _at_indices(pictures: Iterable[Picture], indices: Sequence[int], settings: FrameSettings) -> Iterator[bytes]:
  """Yields the frames at non-decreasing indices, which may repeat."""
  numbered, current, jpeg = enumerate(pictures), -1, b""
  for target in indices:
    if target > current:
      for current, picture in numbered:
        if current == target:
          jpeg = _encode(picture, settings)
          break
    yield jpeg


def _at_rate(
  pictures: Iterable[Picture], settings: FrameSettings, start: float | None, end: float | None
) -> Iterator[bytes]:
  """Yields the frames displayed at start, start + 1 / fps, ...: the last picture that began by each of these times."""
  count, first = 0, None
  for picture in pictures:
    begin, until = displayed_span(picture, start, end)
    first = begin if first is None else first
    repeats = samples_before(first, until, settings.fps) - count
    if repeats > 0:
      count += repeats
      yield from itertools.repeat(_encode(picture, settings), repeats)


def _encode(picture: Picture, settings: FrameSettings) -> bytes:
  return encode_jpeg(_shrink(picture.rgb(), settings.short_side), settings.jpeg_quality)


def _shrink(picture: np.ndarray, short_side: int) -> np.ndarray:
  """Shrinks a picture until its shorter side has at most `short_side` pixels; returns `picture` itself if it does."""
  height, width = picture.shape[:2]
  if not short_side:
    return picture
  if height <= width:
    return image_files.shrink_to_fit(picture, max_height=short_side)
  return image_files.shrink_to_fit(picture, max_width=short_side)
