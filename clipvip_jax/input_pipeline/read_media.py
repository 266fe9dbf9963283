"""Evenly spaced frames from any kind of video: file, image, folder of frames, or array.

Depends on NumPy but not on JAX: runs in loader threads and worker processes.
"""

import collections
import concurrent.futures
import functools
import itertools
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np
from jaxtyping import Float, UInt8

from clipvip_jax.input_pipeline import preprocessing
from clipvip_jax.input_pipeline.frame_sampling import TIME_TOLERANCE, uniform_frames, uniform_in_time
from clipvip_jax.input_pipeline.image_files import is_still_image, list_images, read_image
from clipvip_jax.input_pipeline.media_error import MediaError, file_error_reason
from clipvip_jax.input_pipeline.remote_video import local_media
from clipvip_jax.input_pipeline.time_range import NO_TIMES, displayed_span, from_start
from clipvip_jax.input_pipeline.video_decoder import frame_times, frame_times_and_end, iterate_pictures
from clipvip_jax.utils.errors import UserError

VIDEO_SUFFIXES = (
  ".mp4",
  ".m4v",
  ".mov",
  ".avi",
  ".mkv",
  ".webm",
  ".flv",
  ".wmv",
  ".mpg",
  ".mpeg",
  ".gif",
  ".3gp",
  ".ts",
  ".mts",
  ".m2ts",
  ".ogv",
  ".3g2",
  ".asf",
  ".vob",
  ".f4v",
)

# Path of a video file, an image file or a folder of frames, local or in a bucket; or uint8 [T, H, W, 3] or [H, W, 3].
Video = str | os.PathLike[str] | np.ndarray

# Start and end of a clip within its video, in seconds; None: start and end of the video.
TimeRange = tuple[float | None, float | None]

Item = TypeVar("Item")
Result = TypeVar("Result")

_PREFETCH = 2  # items per thread in `map_in_threads`


def read_clip(
  video: Video, num_frames: int, image_size: int, crop: str = "squash", times: TimeRange = (None, None)
) -> Float[np.ndarray, "t s s 3"]:
  """Reads a video as the model's evaluation input: evenly spaced frames, resized and normalized.

  Args:
    video: path of a video file, an image file or a folder of frames; or uint8 array [T, H, W, 3] or [H, W, 3].
    num_frames: T of the result.
    image_size: S in pixels.
    crop: one of `preprocessing.CROPS`.
    times: the part of a video file to read.

  Raises:
    UserError: the video cannot be read or decoded, has another type, or has no frame within `times`.
  """
  resize = functools.partial(preprocessing.resize_normalize, size=image_size, crop=crop)
  return np.stack(_map_frames(video, num_frames, resize, times))


def read_frames(video: Video, num_frames: int, times: TimeRange = (None, None)) -> list[UInt8[np.ndarray, "h w 3"]]:
  """Reads evenly spaced RGB frames. A frame that is sampled repeatedly is the same object each time.

  Args:
    video: see `read_clip`.
    num_frames: length of the result.
    times: see `read_clip`.

  Raises:
    UserError: see `read_clip`.
  """
  return _map_frames(video, num_frames, lambda frame: frame, times)


def _map_frames(
  video: Video, num_frames: int, function: Callable[[np.ndarray], np.ndarray], times: TimeRange = (None, None)
) -> list[np.ndarray]:
  """Applies `function` to each frame as soon as it is decoded: twelve frames of 8K video are 1.2 GB."""
  if isinstance(video, np.ndarray):
    return _map_sampled(_check_array(video), num_frames, function)
  if not isinstance(video, str | os.PathLike):
    raise UserError(f"expected a path or a uint8 array [T, H, W, 3] as video, got {type(video).__name__}")
  try:
    with local_media(video) as path:
      return _map_path(path, num_frames, function, times)
  except (OSError, ValueError) as error:  # an invalid file name, missing permissions
    raise MediaError(video, f"cannot be read: {file_error_reason(error)}") from error


def _map_path(
  path: pathlib.Path, num_frames: int, function: Callable[[np.ndarray], np.ndarray], times: TimeRange
) -> list[np.ndarray]:
  if path.is_dir():
    files = list_images(path)
  elif is_still_image(path):
    files = [path]
  else:
    return _map_video_file(path, num_frames, function, times)
  if times != (None, None):
    raise MediaError(path, NO_TIMES)
  return _map_sampled(files, num_frames, lambda file: function(read_image(file)))


def _map_sampled(
  items: Sequence[Item] | np.ndarray, num_frames: int, function: Callable[[Item], np.ndarray]
) -> list[np.ndarray]:
  indices = uniform_frames(len(items), num_frames).tolist()
  results = {index: function(items[index]) for index in dict.fromkeys(indices)}
  return [results[index] for index in indices]


def _check_array(video: np.ndarray) -> UInt8[np.ndarray, "t h w 3"]:
  video = video[None] if video.ndim == 3 else video
  if video.dtype != np.uint8 or video.ndim != 4 or video.shape[3] != 3 or not video.size:
    raise UserError(f"expected a uint8 array [T, H, W, 3] as video, got {video.dtype} {list(video.shape)}")
  return video


def _map_video_file(
  path: pathlib.Path, num_frames: int, function: Callable[[np.ndarray], np.ndarray], times: TimeRange
) -> list[np.ndarray]:
  """Converts only the sampled frames to RGB, and keeps only the results of `function`."""
  begins = _begins_within(frame_times(path) if times == (None, None) else _recent_times(path)[0], times) or [0.0]
  end = begins[-1]
  # The times of coded frames may differ from those of decoded ones: then decode again, knowing the latter.
  for _ in range(2):
    expected = uniform_in_time(begins, end, num_frames)
    results, begins, end = _map_decoded(path, set(expected.tolist()), function, times)
    if times[0] and not begins:
      raise MediaError(path, f"start={times[0]:g} is after the end of the video; correct the times of this clip")
    indices = uniform_in_time(begins, end, num_frames).tolist()
    if results.keys() >= set(indices):
      return [results[index] for index in indices]
  raise MediaError(path, "the number of frames changed while reading; is the file still being written?")


def _recent_times(path: pathlib.Path) -> tuple[Sequence[float], float]:
  """Returns `frame_times_and_end`, which reads a complete file, once for consecutive parts of a video."""
  try:
    status = path.stat()
  except OSError:
    return frame_times_and_end(path)  # reports the error
  return _cached_times(path, status.st_mtime_ns, status.st_size)


@functools.lru_cache(64)
def _cached_times(path: pathlib.Path, modified_ns: int, size: int) -> tuple[Sequence[float], float]:
  del modified_ns, size  # parts of the cache's key
  return frame_times_and_end(path)


def video_seconds(video: str | os.PathLike[str]) -> tuple[float, float] | None:
  """Returns when the first frame of a video file begins and the last one ends, in seconds; None for other items.

  Raises:
    UserError: the file cannot be opened, or is not a video.
  """
  with local_media(video) as path:
    begins, end = ([], 0.0) if path.is_dir() or is_still_image(path) else _recent_times(path)
  return (begins[0], end) if len(begins) > 1 else None


def _begins_within(begins: Sequence[float], times: TimeRange) -> list[float]:
  """Returns when the frames that are displayed within `times` begin to be; the first may have begun earlier."""
  start, end = times
  if not begins or (start is None and end is None):  # of an image, `frame_times` are unknown
    return list(begins)
  ends = [*begins[1:], float("inf")]
  spans = [span for span in zip(begins, ends, strict=True) if start is None or span[1] > start + TIME_TOLERANCE]
  return [max(begin, start or begin) for begin, _ in spans if end is None or begin < end]


def _map_decoded(
  path: pathlib.Path, indices: set[int], function: Callable[[np.ndarray], np.ndarray], times: TimeRange
) -> tuple[dict[int, np.ndarray], list[float], float]:
  """Returns {index: result of `function`}, the times at which the frames begin, and the end of the last one."""
  results, begins, end = {}, [], 0.0
  pictures = iterate_pictures(path) if times == (None, None) else iterate_pictures(path, *times)
  for index, picture in enumerate(from_start(pictures, times[0])):
    if index in indices:
      results[index] = function(picture.rgb())
    begin, end = displayed_span(picture, *times)
    begins.append(begin)
  return results, begins, end


def map_in_threads(
  items: Iterable[Item], function: Callable[[Item], Result], threads: int
) -> Iterator[tuple[Item, Result | MediaError]]:
  """Applies a function to items in threads, a few items ahead of the consumer.

  Decoding and resizing release the GIL, so that the model computes meanwhile.

  Yields:
    (item, result) in the order of `items`; in place of the result, the MediaError that `function` raised.

  Raises:
    Exception: any other error of `function`, such as that of a bucket: it says nothing about the item.
  """
  iterator, threads = iter(items), max(threads, 1)
  pool = concurrent.futures.ThreadPoolExecutor(threads)
  pending: collections.deque[tuple[Item, concurrent.futures.Future[Result]]] = collections.deque()
  try:
    while True:
      for item in itertools.islice(iterator, _PREFETCH * threads - len(pending)):
        pending.append((item, pool.submit(function, item)))
      if not pending:
        return
      item, future = pending.popleft()
      result: Result | MediaError
      try:
        result = future.result()
      except MediaError as error:
        result = error
      yield item, result
  finally:
    pool.shutdown(wait=False, cancel_futures=True)  # the consumer may stop early
