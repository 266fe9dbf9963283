"""One door from whatever a video is (file, image, folder of frames, array) to the pixels that a model sees.

NumPy only: this runs in loader threads and processes.
"""

import collections
import concurrent.futures
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from jaxtyping import Float

from clipvip_jax.errors import UserError
from clipvip_jax.input_pipeline import pixels
from clipvip_jax.input_pipeline.frames import uniform_frames
from clipvip_jax.input_pipeline.video import VideoError, count_packets, iterate_pictures

VIDEOS = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".flv", ".wmv", ".mpg", ".mpeg", ".gif", ".3gp", ".ts")
IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
_JPEG = (".jpg", ".jpeg")
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
  return np.stack([pixels.resize_normalize(frame, image_size) for frame in read_frames(video, num_frames)])


def read_frames(video: Any, num_frames: int) -> list[np.ndarray]:
  """`num_frames` evenly spread frames, uint8 [H, W, 3] each. Arguments and errors as for `read_clip`."""
  if isinstance(video, np.ndarray):
    return _of_array(video, num_frames)
  if not isinstance(video, str | os.PathLike):
    raise UserError(f"a video is a path or a uint8 array [T, H, W, 3], got {type(video).__name__}")
  path = pathlib.Path(video)
  if path.is_dir():
    files = _images_in(path)
    if not files:
      raise VideoError(path, f"the folder holds no frames ({', '.join(IMAGES)})")
    chosen = uniform_frames(len(files), num_frames)
    return [_read_image(files[i]) for i in chosen]
  if path.suffix.lower() in IMAGES:
    return [_read_image(path)] * num_frames
  return _of_file(path, num_frames)


def _of_array(video: np.ndarray, num_frames: int) -> list[np.ndarray]:
  video = video[None] if video.ndim == 3 else video
  if video.dtype != np.uint8 or video.ndim != 4 or video.shape[3] != 3 or not video.size:
    raise UserError(f"a video as an array must be uint8 [T, H, W, 3], got {video.dtype} {list(video.shape)}")
  return [video[i] for i in uniform_frames(len(video), num_frames)]


def _of_file(path: pathlib.Path, num_frames: int) -> list[np.ndarray]:
  """Frames of a video of any length: only those wanted are turned into pictures and held."""
  expected = count_packets(path)
  frames, found = _decode(path, uniform_frames(max(expected, 1), num_frames))
  if found != expected:  # damaged pictures, or two packets a picture: now the true number is known
    frames, _ = _decode(path, uniform_frames(found, num_frames))
  return frames


def _decode(path: pathlib.Path, chosen: np.ndarray) -> tuple[list[np.ndarray], int]:
  """(the chosen frames that there are, the number of frames in the file)."""
  wanted = set(chosen.tolist())
  kept, count = {}, 0
  for index, picture in enumerate(iterate_pictures(path)):
    if index in wanted:
      kept[index] = picture()
    count = index + 1
  return [kept[i] for i in chosen.tolist() if i in kept], count


def _read_image(path: pathlib.Path) -> np.ndarray:
  try:
    data = path.read_bytes()
  except OSError as error:
    raise VideoError(path, f"cannot be read: {error.strerror}") from error
  if path.suffix.lower() in _JPEG:
    return pixels.decode_jpeg(data, str(path))
  import cv2

  picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
  if picture is None:
    raise VideoError(path, "is no image that can be read")
  return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)


def _natural(path: pathlib.Path) -> list[tuple[int, int, str]]:
  """frame_2 before frame_10."""
  return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", path.name) if part]


def _images_in(folder: pathlib.Path) -> list[pathlib.Path]:
  files = [f for f in folder.iterdir() if f.suffix.lower() in IMAGES and f.is_file() and not f.name.startswith(".")]
  return sorted(files, key=_natural)


def list_videos(source: str | os.PathLike[str]) -> list[pathlib.Path]:
  """The videos below a folder, sorted, or those of a list.

  Args:
    source: a folder: every video file below it, and every folder that holds images directly and no video, as one clip
      of frames; hidden ones are left out. Or a text file with a path a line, relative to it; empty lines and
      those that begin with # are passed over.

  Raises:
    UserError: it is not there, or names nothing.
  """
  path = pathlib.Path(source)
  if path.is_dir():
    found = sorted(_below(path))
    if not found:
      raise UserError(
        f"{path}: no videos ({', '.join(VIDEOS)}) and no folders of frames ({', '.join(IMAGES)}) below it"
      )
    return found
  try:
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
  except (OSError, UnicodeDecodeError) as error:
    raise UserError(f"{path}: neither a folder nor a list of videos that can be read ({error})") from error
  found = [path.parent / line for line in lines if line and not line.startswith("#")]
  if not found:
    raise UserError(f"{path}: the list names no videos; expected one path a line")
  return found


def _below(folder: pathlib.Path) -> Iterator[pathlib.Path]:
  for root, folders, names in os.walk(folder):
    folders[:] = [name for name in folders if not name.startswith(".")]
    files = [pathlib.Path(root, name) for name in names if not name.startswith(".")]
    videos = [file for file in files if file.suffix.lower() in VIDEOS]
    yield from videos
    if not videos and any(file.suffix.lower() in IMAGES for file in files):
      yield pathlib.Path(root)


def read_all(items: Iterable[Any], read: Callable[[Any], Any], threads: int) -> Iterator[tuple[Any, Any]]:
  """(item, what `read` gives, or the UserError that it raised), in order, read in threads a little ahead.

  Decoding and resizing leave Python to other threads, so that a model computes meanwhile.
  """
  source = iter(items)
  pool = concurrent.futures.ThreadPoolExecutor(max(threads, 1))
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
