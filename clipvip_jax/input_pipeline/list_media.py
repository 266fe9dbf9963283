"""Lists the videos and images of a folder or a text file, by name or content, and logs what it ignores."""

import contextlib
import itertools
import json
import os
import pathlib
import posixpath
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from etils import epath

from clipvip_jax.input_pipeline.image_files import IMAGE_SUFFIXES
from clipvip_jax.input_pipeline.media_error import MediaError
from clipvip_jax.input_pipeline.read_media import VIDEO_SUFFIXES
from clipvip_jax.input_pipeline.remote_video import local_media
from clipvip_jax.input_pipeline.video_decoder import iterate_pictures
from clipvip_jax.utils import storage, transfers
from clipvip_jax.utils.bucket_copies import fetch_file
from clipvip_jax.utils.compression import START_BYTES, check_uncompressed
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.local_paths import find_path, real_path
from clipvip_jax.utils.log import list_first, log, printable

_MAX_NAMED = 20  # files that a log line names
_NUMBERED = re.compile(r"(.*?)(\d+)(\D*)")  # the last number in the name of a frame
_MAX_MISSING_FRAMES = 0.1  # fraction of the numbers between the first frame and the last
_CHECKED_FRAMES = 8
_CAMERA_TAGS = (0x010F, 0x0110)  # EXIF: maker and model of the camera
_Path = TypeVar("_Path", pathlib.Path, epath.Path)


def list_videos(
  path: str | os.PathLike[str], *, companions: tuple[str, ...] = ()
) -> list[pathlib.Path] | list[epath.Path]:
  """Lists videos and images in a folder or a text file.

  Args:
    path: a folder, which is searched recursively. Each video file and each image is one item; a folder of frames, that
      is of numbered images of one size, without videos, is one video. Files with unknown suffixes are recognised by
      their content. Hidden entries, other files, and images beside a video of the same name are ignored and logged.
      Or a text file with one path per line, relative to the file; empty lines are skipped, and lines that start with #
      unless a file has this name. Or a single video or image file. In a bucket, files are recognised by their suffixes
      alone, as their content would have to be downloaded. Lines of a list may be addresses in buckets.
    companions: suffixes of files that the caller reads beside the video of their name, which are not logged as ignored.

  Returns:
    Paths: sorted for a folder, in the order of a text file. Of several paths of the same file, only the first.

  Raises:
    UserError: `path` does not exist, cannot be read, or has no videos.
  """
  if storage.is_remote(path):
    return _list_bucket(storage.absolute(path), companions)
  path = pathlib.Path(path)
  if path.is_dir():
    videos = sorted(_walk(path, companions))
    if not videos:
      raise UserError(f"{path}: no videos, images or folders of frames in this folder; name another one")
    return _unique(videos, path)
  if path.suffix.lower() in VIDEO_SUFFIXES + IMAGE_SUFFIXES and path.is_file():
    return [path]
  return _read_list(path)


def _list_bucket(path: epath.Path, companions: tuple[str, ...]) -> list[epath.Path]:
  """Lists as `list_videos` does, for a path in a bucket."""
  storage.check_bucket(path)
  names = transfers.list_names(path)
  if not names:
    return [path] if path.suffix.lower() in VIDEO_SUFFIXES + IMAGE_SUFFIXES else _read_list(path)
  hidden = [name for name in names if any(part.startswith(".") for part in name.split("/"))]
  by_folder: dict[epath.Path, list[epath.Path]] = {}
  for name in sorted({*names} - {*hidden}):
    by_folder.setdefault((path / name).parent, []).append(path / name)
  items, passed, frames = list[epath.Path](), hidden, list[str]()
  for folder, files in by_folder.items():
    images = [file for file in files if file.suffix.lower() in IMAGE_SUFFIXES]
    videos = [file for file in files if file.suffix.lower() in VIDEO_SUFFIXES]
    selected = _select_items(folder, videos, images)
    items += selected
    if selected == [folder]:
      frames.append(os.fspath(folder))
    else:
      listed = {*selected, *_find_companions(files, selected, companions)}
      passed += [file.relative_to(path).as_posix() for file in files if file not in listed]
  if not items:
    raise UserError(f"{path}: no videos, images or folders of frames in this folder; name another one")
  _log_ignored(path, passed, frames)
  return sorted(items)


def _read_list(path: _Path) -> list[_Path]:
  local = fetch_file(path)
  try:
    text = os.fsdecode(local.read_bytes()).removeprefix("\ufeff")  # file names need not be valid UTF-8
  except OSError as error:
    raise UserError(f"{path}: not a folder, and not a readable list of videos ({error.strerror})") from error
  if "\0" in text and _is_media(local):
    return [path]
  check_uncompressed(os.fsencode(text[:START_BYTES]), path)
  if "\0" in text:
    raise UserError(f"{path}: not a folder, and not a readable list of videos (binary content or UTF-16; write UTF-8)")
  end = "\n" if "\n" in text else "\r"  # of old spreadsheets
  lines = [line for line in map(str.strip, text.split(end)) if line]
  if lines and _is_json(lines[0]):
    raise UserError(
      f"{path}: this is JSON, expected one path per line; of JSON lines: jq -r .video {path.name} > LIST.txt"
    )
  comments = [line for line in lines if line.startswith("#") and not (local.parent / line).exists()]
  if comments:
    log.info("%s: ignored %d comment lines: %s", path, len(comments), _name(comments))
  excluded = set(comments)
  videos = [_listed_path(path.parent, line) for line in lines if line not in excluded]
  if not videos:
    raise UserError(f"{path}: the list has no videos; write one path per line")
  return _unique(videos, path)


def _listed_path(folder: _Path, line: str) -> _Path:
  if storage.is_remote(line):
    storage.check_package(line)
    return storage.absolute(line)
  if not storage.is_remote(folder):
    return pathlib.Path(find_path(folder / line))
  if line.startswith("/"):
    raise UserError(f"{printable(line)}: a list in a bucket has addresses or paths relative to it, not absolute paths")
  scheme, _, name = os.fspath(folder).partition("://")
  return storage.absolute(f"{scheme}://{posixpath.normpath(posixpath.join(name, line))}")


def _is_json(line: str) -> bool:
  try:
    return line in ("[", "{") or isinstance(json.loads(line), dict | list)
  except (ValueError, RecursionError):
    return False


def _unique(videos: Sequence[_Path], where: _Path) -> list[_Path]:
  """Returns the first path of each file."""
  first: dict[str, _Path] = {}
  names = [os.fspath(video) if storage.is_remote(video) else real_path(video) for video in videos]
  for name, video in zip(names, videos, strict=True):
    first.setdefault(name, video)
  if others := [str(video) for name, video in zip(names, videos, strict=True) if first[name] is not video]:
    log.info("%s: ignored %d other paths of the same files: %s", where, len(others), _name(others))
  return list(first.values())


def _walk(folder: pathlib.Path, companions: tuple[str, ...]) -> Iterator[pathlib.Path]:
  """Yields the items below a folder; follows links, and visits each folder once."""
  visited: set[str] = set()
  passed: list[str] = []
  frames: list[str] = []
  for root, folders, names in os.walk(folder, onerror=_raise_unlistable, followlinks=True):
    real = os.path.realpath(root)
    if real in visited:
      folders.clear()
      continue
    visited.add(real)
    hidden = [name for name in (*folders, *names) if name.startswith(".")]
    folders[:] = sorted(name for name in folders if not name.startswith("."))
    files = [pathlib.Path(root, name) for name in sorted(names) if not name.startswith(".")]
    special = {file for file in files if not file.is_file() and file.exists()}  # pipes, sockets, devices
    images = [file for file in files if file.suffix.lower() in IMAGE_SUFFIXES and file not in special]
    others = sorted({*files} - {*images})
    videos = [
      file for file in others if file not in special and (file.suffix.lower() in VIDEO_SUFFIXES or _is_media(file))
    ]
    selected = _select_items(pathlib.Path(root), videos, images)
    yield from selected
    if selected == [pathlib.Path(root)]:
      frames.append(root)
      images = []
    beside = _find_companions(others, selected, companions)
    previews = [image for image in images if image not in {*selected}]
    unlisted = [*(pathlib.Path(root, name) for name in hidden), *previews, *sorted({*others} - {*videos, *beside})]
    passed.extend(str(file.relative_to(folder)) for file in unlisted)
  _log_ignored(folder, passed, frames)


def _select_items(folder: _Path, videos: Sequence[_Path], images: Sequence[_Path]) -> list[_Path]:
  """Returns the items among the files of a folder, which itself is the only one if they are frames of a video."""
  if not videos and _are_frames(images):
    return [folder]
  stems: set[str] = {video.stem for video in videos}
  return [*videos, *(image for image in images if image.stem not in stems)]


def _find_companions(files: Sequence[_Path], items: Sequence[_Path], suffixes: tuple[str, ...]) -> Iterator[_Path]:
  """Yields the files NAME.SUFFIX and NAME.LANGUAGE.SUFFIX beside the items of these names."""
  stems = {item.stem for item in items}
  for file in files:
    if file.name.lower().endswith(suffixes) and stems & {file.stem, pathlib.PurePath(file.stem).stem}:
      yield file


def _log_ignored(folder: storage.PathLike, passed: Sequence[str], frames: Sequence[str]) -> None:
  if passed:
    log.info(
      "%s: ignored %d entries (hidden, neither videos nor images, or images of a video's name): %s",
      *(folder, len(passed), _name(passed)),
    )
  if frames:
    log.info("%s: read %d folders of numbered images as one video each: %s", folder, len(frames), _name(frames))


def _raise_unlistable(error: OSError) -> None:
  raise UserError(f"{error.filename}: cannot list the folder ({error.strerror}); check its permissions") from error


def _is_media(file: pathlib.Path) -> bool:
  """Returns whether a picture of the file can be decoded."""
  if not file.is_file():
    return False
  with contextlib.suppress(UserError):
    return next(iterate_pictures(file), None) is not None
  return False


def _are_frames(images: Sequence[_Path]) -> bool:
  """Returns whether images are frames of one video: numbered without large gaps, of one size, and not by a camera."""
  matches = [match for image in images if (match := _NUMBERED.fullmatch(image.stem))]
  if len(images) < 2 or len(matches) < len(images) or len({(m[1], m[3]) for m in matches}) > 1:
    return False
  numbers = sorted({int(match[2]) for match in matches})
  step = min((b - a for a, b in itertools.pairwise(numbers)), default=1)
  missing = (numbers[-1] - numbers[0]) // step + 1 - len(numbers)
  if len(numbers) < len(images) or missing > _MAX_MISSING_FRAMES * len(numbers) + 1:
    return False
  checked = images[:: -(-len(images) // _CHECKED_FRAMES)]
  properties = {found for image in checked if (found := _size_and_camera(image))}
  return len(properties) <= 1 and not any(camera for _, camera in properties)


def _size_and_camera(image: storage.PathLike) -> tuple[tuple[int, int], bool] | None:
  """Returns width and height, and whether a camera took the image; None if it cannot be read."""
  from PIL import Image

  try:
    with local_media(image) as local, Image.open(local) as opened:
      return opened.size, any(tag in opened.getexif() for tag in _CAMERA_TAGS)
  except Exception as error:  # corrupt tags raise exceptions of any type; reading the pixels reports the error
    if isinstance(error, UserError) and not isinstance(error, MediaError):  # of a bucket
      raise
    return None


def _name(values: Iterable[str]) -> str:
  """Formats the first values for a log line."""
  return printable(list_first(values, _MAX_NAMED))
