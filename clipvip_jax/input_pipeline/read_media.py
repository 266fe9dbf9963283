"""One door from whatever a video is (file, image, folder of frames, array) to the pixels that a model sees.

NumPy only: this runs in loader threads and processes.
"""

import collections
import concurrent.futures
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from jaxtyping import Float

from clipvip_jax.input_pipeline import preprocessing
from clipvip_jax.input_pipeline.frame_sampling import uniform_frames
from clipvip_jax.input_pipeline.image_files import IMAGE_SUFFIXES, images_in, read_image
from clipvip_jax.input_pipeline.video_decoder import VideoError, count_packets, iterate_pictures
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
)
_AHEAD = 2  # items in work for each thread


def read_clip(video: Any, num_frames: int, image_size: int) -> Float[np.ndarray, "t s s 3"]:
  """Normalised pixels of evenly spread frames: what evaluation shows to the model.

  Args:
    video: path to a video or image file, folder of frames, or uint8 array [T, H, W, 3] or [H, W, 3].
    num_frames: T.
    image_size: S in pixels.

  Raises:
    UserError: it cannot be read, or is none of these.
  """
  return np.stack(_spread(video, num_frames, lambda frame: preprocessing.resize_normalize(frame, image_size)))


def read_frames(video: Any, num_frames: int) -> list[np.ndarray]:
  """`num_frames` evenly spread frames, uint8 [H, W, 3] each; one that stands for several is the same object.

  Arguments and errors as for `read_clip`.
  """
  return _spread(video, num_frames, lambda frame: frame)


def _spread(video: Any, num_frames: int, use: Callable[[np.ndarray], np.ndarray]) -> list[np.ndarray]:
  """`use` of evenly spread frames, each as soon as it is decoded: twelve pictures of 8K are 1.2 GB."""
  if isinstance(video, np.ndarray):
    return _drawn(_checked(video), num_frames, use)
  if not isinstance(video, str | os.PathLike):
    raise UserError(f"a video is a path or a uint8 array [T, H, W, 3], got {type(video).__name__}")
  path = pathlib.Path(video)
  try:
    if path.is_dir():
      files = images_in(path)
    elif path.suffix.lower() in IMAGE_SUFFIXES:
      files = [path]
    else:
      return _of_file(path, num_frames, use)
    return _drawn(files, num_frames, lambda file: use(read_image(file)))
  except (OSError, ValueError) as error:  # a name that no file can have, a folder that is closed to us
    raise VideoError(path, f"cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _drawn(items: Any, num_frames: int, use: Callable[[Any], np.ndarray]) -> list[np.ndarray]:
  chosen = uniform_frames(len(items), num_frames).tolist()
  used = {index: use(items[index]) for index in dict.fromkeys(chosen)}
  return [used[index] for index in chosen]


def _checked(video: np.ndarray) -> np.ndarray:
  video = video[None] if video.ndim == 3 else video
  if video.dtype != np.uint8 or video.ndim != 4 or video.shape[3] != 3 or not video.size:
    raise UserError(f"a video as an array must be uint8 [T, H, W, 3], got {video.dtype} {list(video.shape)}")
  return video


def _of_file(path: pathlib.Path, num_frames: int, use: Callable[[np.ndarray], np.ndarray]) -> list[np.ndarray]:
  """Frames of a video of any length: only those wanted are turned into pictures, and none is held but what is used."""
  expected = max(count_packets(path), 1)
  for _ in range(2):  # where pictures are damaged, or two packets make one, the first reading tells the true number
    chosen = uniform_frames(expected, num_frames).tolist()
    used, found = _decode(path, set(chosen), use)
    if found == expected:
      return [used[index] for index in chosen]
    expected = found
  raise VideoError(path, "holds another number of frames at each reading; is it still being written?")


def _decode(
  path: pathlib.Path, wanted: set[int], use: Callable[[np.ndarray], np.ndarray]
) -> tuple[dict[int, np.ndarray], int]:
  """({index: `use` of a wanted frame}, the number of frames in the file)."""
  used, count = {}, 0
  for index, picture in enumerate(iterate_pictures(path)):
    if index in wanted:
      used[index] = use(picture.rgb())
    count = index + 1
  return used, count


def list_videos(source: str | os.PathLike[str]) -> list[pathlib.Path]:
  """The videos below a folder, sorted, or those of a list.

  Args:
    source: a folder: every video file below it, and every folder that holds images directly and no video, as one clip
      of frames; hidden ones are left out. Or a text file with a path a line, relative to it; empty lines and
      those that begin with # are passed over. Or a video or image file, as the only one.

  Raises:
    UserError: it is not there, or names nothing.
  """
  path = pathlib.Path(source)
  if path.is_dir():
    found = sorted(_below(path))
    if not found:
      raise UserError(
        f"{path}: no videos ({', '.join(VIDEO_SUFFIXES)}) and no folders of frames ({', '.join(IMAGE_SUFFIXES)})"
        " below it"
      )
    return found
  if path.suffix.lower() in VIDEO_SUFFIXES + IMAGE_SUFFIXES and path.is_file():
    return [path]
  try:
    # As the file system spells names, which need not be UTF-8.
    text = os.fsdecode(path.read_bytes()).removeprefix("\ufeff")
  except OSError as error:
    raise UserError(f"{path}: neither a folder nor a list of videos that can be read ({error.strerror})") from error
  if "\0" in text:
    raise UserError(f"{path}: neither a folder nor a list of videos that can be read (it is no text)")
  lines = [line.strip() for line in text.split("\n")]
  found = [path.parent / line for line in lines if line and not line.startswith("#")]
  if not found:
    raise UserError(f"{path}: the list names no videos; expected one path a line")
  return found


def _below(folder: pathlib.Path) -> Iterator[pathlib.Path]:
  """Follows links to folders, and goes into each folder once."""
  seen = set()
  for root, folders, names in os.walk(folder, onerror=_refuse, followlinks=True):
    folders[:] = sorted(name for name in folders if not name.startswith("."))
    real = pathlib.Path(root).resolve()
    if real in seen:
      folders.clear()
      continue
    seen.add(real)
    files = [pathlib.Path(root, name) for name in names if not name.startswith(".")]
    videos = [file for file in files if file.suffix.lower() in VIDEO_SUFFIXES]
    yield from videos
    if not videos and any(file.suffix.lower() in IMAGE_SUFFIXES for file in files):
      yield pathlib.Path(root)


def _refuse(error: OSError) -> None:
  raise UserError(f"{error.filename}: the folder cannot be listed ({error.strerror})") from error


def read_all(items: Iterable[Any], read: Callable[[Any], Any], threads: int) -> Iterator[tuple[Any, Any]]:
  """(item, what `read` gives, or the UserError that it raised), in order, read in threads a little ahead.

  Decoding and resizing leave Python to other threads, so that a model computes meanwhile.
  """
  source, threads = iter(items), max(threads, 1)
  pool = concurrent.futures.ThreadPoolExecutor(threads)
  running: collections.deque[tuple[Any, concurrent.futures.Future]] = collections.deque()
  try:
    while True:
      while len(running) < _AHEAD * threads and (item := next(source, _END)) is not _END:
        running.append((item, pool.submit(read, item)))
      if not running:
        return
      item, future = running.popleft()
      try:
        result = future.result()
      except UserError as error:
        result = error
      yield item, result
  finally:
    pool.shutdown(wait=False, cancel_futures=True)  # where the reader stops early


_END = object()
