"""Labelled videos of classification test sets.

| source | layout |
|---|---|
| folder | one sub-folder per class |
| .jsonl, .json, .csv, .tsv | rows with video, label, and optionally start and end in seconds |
| .csv of Kinetics | columns label, youtube_id, time_start, time_end, split; files `YOUTUBE-ID_000012_000022.mp4` |
| .json of Something-Something | rows with id and template; files `ID.webm` |
| CLASS_test_splitN.txt of HMDB51, or a pattern with * | lines `NAME.avi 0`, 1 (training) or 2 (test) |
| other text, such as lists of UCF101 | lines `CLASS/NAME.avi`, or `NAME ID` with an id of the class list |
"""

import dataclasses
import itertools
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal

from clipvip_jax.data.engine.items import check_id, check_times
from clipvip_jax.data.engine.json_files import excerpt, read_json, read_json_lines
from clipvip_jax.data.engine.tables import is_table, read_csv
from clipvip_jax.data.engine.text_files import read_lines
from clipvip_jax.evaluation.class_list import ClassList, class_key
from clipvip_jax.inference.video_clip import VideoClip
from clipvip_jax.input_pipeline import list_media
from clipvip_jax.utils import storage, transfers
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.local_paths import find_path, real_path
from clipvip_jax.utils.log import list_first, log, printable

Part = Literal["train", "test"]

_HMDB_NAME = re.compile(r"(.+)_test_split\d\.txt")
_HMDB_PARTS = {"0": None, "1": "train", "2": "test"}
_LIST_LINE = re.compile(r"(.+?)(?:[ \t]+(\d+))?")
_FIELDS = ("video", "label", "start", "end")
_MAX_NAMED = 5


@dataclasses.dataclass(frozen=True)
class LabelledVideo:
  """A clip and the index of its class."""

  clip: VideoClip
  label: int


@dataclasses.dataclass(frozen=True)
class _Row:
  """A row of a list: its location, its clip, and the names or ids of its class, which must agree as far as known."""

  where: str
  clip: VideoClip
  labels: tuple[str, ...]

  def find_class(self, classes: ClassList) -> int | None:
    """Returns the index of the class, None if it is not in the list; raises UserError for names of two classes."""
    known = ((label, index) for label in self.labels if (index := classes.find(label)) is not None)
    first, found = next(known, ("", None))
    if other := [name for name in self.labels if classes.keys.get(class_key(name), found) != found]:
      meaning = "" if found is None else classes.names[found]
      raise UserError(
        f"{self.where}: {first!r} is class {printable(repr(meaning))} of --classes, but the folder is {other[0]!r}; use"
        " ids of that list, which may start at another number, or remove them"
      )
    return found


def read_videos(
  source: pathlib.Path, classes: ClassList, video_dir: pathlib.Path | None = None, part: Part = "test"
) -> list[LabelledVideo]:
  """Reads labelled videos; see the module's docstring. Whether the files of a list exist is not checked.

  Args:
    source: a folder or a file; or a pattern with * for the split files of HMDB51.
    classes: their labels must be in this list.
    video_dir: folder of the videos of a list; None: that of the list. Does not apply to a folder.
    part: which lines of HMDB51's split files are meant.

  Raises:
    UserError: the source is unreadable, has no videos, a label that `classes` lacks, or a video with two labels, such
      as an id and a folder of different classes.
  """
  rows = list(_rows(source, video_dir, part))
  if not rows:
    raise UserError(f"{source}: no labelled videos; see --help for the layouts")
  labels = [row.find_class(classes) for row in rows]
  unknown = [row for row, label in zip(rows, labels, strict=True) if label is None]
  if unknown:
    names = dict.fromkeys(repr(row.labels[-1]) for row in unknown)
    raise UserError(
      f"{unknown[0].where}: {len(unknown)} of {len(rows)} videos have labels that are not in the class list:"
      f" {printable(list_first(names, _MAX_NAMED))}; correct them, or add them to --classes"
    )
  return _unique(source, [(row, label) for row, label in zip(rows, labels, strict=True) if label is not None])


def check_disjoint(train: Sequence[LabelledVideo], test: Sequence[LabelledVideo]) -> None:
  """Raises UserError if a clip is in both parts."""
  keys = {_clip_key(video.clip) for video in train}
  if common := [video.clip.name for video in test if _clip_key(video.clip) in keys]:
    raise UserError(
      f"{len(common)} videos are in both --train and --videos, first {printable(common[0])}; remove them from one"
    )


def _clip_key(clip: VideoClip) -> tuple[str, float, float | None]:
  return real_path(clip.path), clip.start or 0.0, clip.end


def _unique(source: pathlib.Path, videos: Sequence[tuple[_Row, int]]) -> list[LabelledVideo]:
  """Returns each clip once; raises UserError if one has two labels."""
  first: dict[tuple[str, float, float | None], tuple[_Row, int]] = {}
  for row, label in videos:
    other, other_label = first.setdefault(_clip_key(row.clip), (row, label))
    if label != other_label:
      raise UserError(
        f"{row.where}: {printable(row.clip.name)} has another label than at {other.where}; keep one of them"
      )
  if len(first) < len(videos):
    log.info("%s: %d rows repeat a video of an earlier row, and are skipped", source, len(videos) - len(first))
  return [LabelledVideo(row.clip, label) for row, label in first.values()]


def _rows(source: pathlib.Path, video_dir: pathlib.Path | None, part: Part) -> Iterable[_Row]:
  folder = video_dir or source.parent
  if video_dir and not _is_folder(video_dir):
    raise UserError(f"--video_dir={video_dir} is not a folder; name that of the videos")
  if _is_folder(source):
    return _folder_rows(source)
  if "*" in source.name and not storage.is_remote(source) and not source.exists():
    files = sorted(source.parent.glob(source.name))
    return itertools.chain.from_iterable(_hmdb_rows(file, folder, part) for file in files)
  if _HMDB_NAME.fullmatch(source.name):
    return _hmdb_rows(source, folder, part)
  if is_table(source, "label"):
    return _csv_rows(source, folder)
  readers = {".jsonl": _json_lines_rows, ".json": _json_rows}
  return readers.get(source.suffix.lower(), _text_rows)(source, folder)


def _is_folder(path: pathlib.Path) -> bool:
  if not storage.is_remote(path):
    return path.is_dir()
  storage.check_bucket(path)
  try:  # one object is looked up: a listing of a large folder takes minutes
    return transfers.retry(path, lambda: storage.file_system(path).info(os.fspath(path)))["type"] == "directory"
  except FileNotFoundError:
    return False


def _folder_rows(folder: pathlib.Path) -> Iterator[_Row]:
  for path in list_media.list_videos(folder):
    label, *rest = path.relative_to(folder).parts
    if not rest and not path.is_dir():
      raise UserError(f"{path} is in no sub-folder, which would name its class; move it, or pass a list of labels")
    yield _Row(os.fspath(path), VideoClip(os.fspath(path)), (label,))


def _clip(folder: pathlib.Path, name: Any, where: str, times: tuple[Any, Any] = (None, None)) -> VideoClip:
  name = check_id(name, f"{where}, video")
  path = name if storage.is_remote(name) else os.fspath(folder / name)
  if storage.is_remote(path):
    storage.check_package(path)
  else:
    path = find_path(path)
  return VideoClip(path, *check_times(*times, where))


def _json_lines_rows(path: pathlib.Path, folder: pathlib.Path) -> Iterator[_Row]:
  for number, row in read_json_lines(os.fspath(path)):
    yield _manifest_row(row, f"{path}, line {number}", folder)


def _json_rows(path: pathlib.Path, folder: pathlib.Path) -> Iterator[_Row]:
  rows = read_json(os.fspath(path))
  if not isinstance(rows, list):
    raise UserError(f"{path}: expected a list of objects with video and label, got {excerpt(rows)}")
  find = _finder(folder, ".webm")
  for number, row in enumerate(rows, 1):
    where = f"{path}, entry {number}"
    if not isinstance(row, dict):
      raise UserError(f"{where}: expected an object with video and label, got {excerpt(row)}")
    if "template" in row and "id" in row:  # Something-Something
      name = str(row["id"])
      yield _Row(where, VideoClip(find(where, [name])), (check_id(row["template"], f"{where}, template"),))
    else:
      yield _manifest_row(row, where, folder)


def _manifest_row(row: dict[str, Any], where: str, folder: pathlib.Path) -> _Row:
  if unknown := sorted(row.keys() - set(_FIELDS)):
    raise UserError(f"{where}: unknown field {excerpt(unknown[0])}; use {', '.join(_FIELDS)}")
  label = row.get("label")
  label = check_id(str(label) if type(label) is int else label, f"{where}, label")
  clip = _clip(folder, row.get("video"), where, (row.get("start"), row.get("end")))
  return _Row(where, clip, (label,))


def _csv_rows(path: pathlib.Path, folder: pathlib.Path) -> Iterator[_Row]:
  find = _finder(folder, ".mp4")
  for where, row in read_csv(path, "label"):
    if "youtube_id" in row:
      names = _kinetics_names(row, where)
      yield _Row(where, VideoClip(find(where, names)), (row["label"],))
    else:
      times = {name: _number(row[name]) for name in ("start", "end") if row.get(name)}
      yield _manifest_row({**{name: row[name] for name in row if name not in ("start", "end")}, **times}, where, folder)


def _number(text: str) -> float | str:
  try:
    return float(text)
  except ValueError:
    return text


def _kinetics_names(row: dict[str, str], where: str) -> list[str]:
  """Returns the names of a clip in the usual copies of Kinetics: flat, in folders of classes, or of splits."""
  try:
    start, end = (int(float(row[name])) for name in ("time_start", "time_end"))
  except (KeyError, ValueError, OverflowError) as error:
    raise UserError(f"{where}: time_start and time_end must be seconds; use the original file") from error
  name, label, split = f"{row['youtube_id']}_{start:06d}_{end:06d}", row["label"], row.get("split", "")
  folders = [label, label.replace(" ", "_"), split, f"{split}/{label}", f"{split}/{label.replace(' ', '_')}"]
  return [name, *(f"{folder}/{name}" for folder in folders if folder)]


def _hmdb_rows(path: pathlib.Path, folder: pathlib.Path, part: Part) -> Iterator[_Row]:
  match = _HMDB_NAME.fullmatch(path.name)
  if not match:
    raise UserError(f"{path}: split files of HMDB51 are named CLASS_test_splitN.txt; pass a pattern of these alone")
  find = _finder(folder, ".avi")
  for number, line in enumerate(read_lines(path), 1):
    where, fields = f"{path}, line {number}", line.rsplit(maxsplit=1)
    if not fields:
      continue
    if len(fields) != 2 or fields[1] not in _HMDB_PARTS:
      raise UserError(f"{where}: expected NAME 0, 1 or 2, got {excerpt(line.strip())}")
    if _HMDB_PARTS[fields[1]] == part:
      yield _Row(where, VideoClip(find(where, [f"{match[1]}/{fields[0]}", fields[0]])), (match[1],))


def _text_rows(path: pathlib.Path, folder: pathlib.Path) -> Iterator[_Row]:
  find = _finder(folder, ".avi")
  for number, line in enumerate(read_lines(path), 1):
    where = f"{path}, line {number}"
    if match := _LIST_LINE.fullmatch(line.strip()):
      name = pathlib.PurePosixPath(match[1])
      labels = tuple(filter(None, (match[2], name.parent.name)))
      if not labels:
        raise UserError(f"{where}: {excerpt(line.strip())} names no class; write CLASS/NAME, or NAME ID")
      yield _Row(where, VideoClip(find(where, [match[1], name.name])), labels)


def _finder(folder: pathlib.Path, suffix: str) -> Callable[[str, Sequence[str]], str]:
  """Returns a function of a location and names, relative to a folder: the path of the first that exists."""
  from etils import epath

  from clipvip_jax.data.engine.annotations import VideoFinder, check_name  # late: imports TFDS

  finder = VideoFinder(epath.Path(folder), "", (), suffix)
  return lambda where, names: finder.path([check_name(name, where) for name in names])
