"""Middle frames of clips: of a built corpus, which stores them, or of videos, which are decoded in other processes."""

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import queue
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

from etils import epath

from clipvip_jax.captioning.engine import NumberedFrame
from clipvip_jax.data.engine.clip_record import read_frames
from clipvip_jax.data.engine.coverage import SkippedClip
from clipvip_jax.data.engine.decode_process import DecodeProcess
from clipvip_jax.data.engine.frame_extraction import FrameSettings
from clipvip_jax.data.engine.items import Item, check_id
from clipvip_jax.input_pipeline import list_media
from clipvip_jax.input_pipeline.corpus import Corpus
from clipvip_jax.input_pipeline.frame_sampling import CORPUS_FPS, middle_frame
from clipvip_jax.input_pipeline.media_error import MediaError
from clipvip_jax.input_pipeline.read_media import map_in_threads
from clipvip_jax.input_pipeline.record_text import record_text
from clipvip_jax.utils.errors import UserError

_DECODE_TIMEOUT = 120.0  # seconds for one clip, as of builds


@dataclasses.dataclass(frozen=True)
class ClipFrame:
  """The middle frame of a clip.

  Attributes:
    number: of the clip in its source.
    name: id of the clip.
    split: its split; "" where ids do not depend on one.
    jpeg: the frame; empty if it cannot be read.
    problem: why it cannot be read.
  """

  number: int
  name: str
  split: str
  jpeg: bytes = b""
  problem: str = ""

  @property
  def numbered(self) -> NumberedFrame:
    """Returns what engines describe."""
    return self.number, self.jpeg


class FrameSource(Protocol):
  """Clips in a fixed order."""

  def __len__(self) -> int: ...

  def describe(self) -> dict[str, Any]:
    """Returns what identifies the clips, as JSON values for the header of the output."""

  def frames(self, numbers: Iterable[int]) -> Iterator[ClipFrame]:
    """Yields the frames of clips, in order.

    Raises:
      UserError: a corpus is corrupt.
    """


class CorpusFrames:
  """Clips of a built corpus. Nothing is decoded."""

  def __init__(self, corpus: Corpus, splits: Sequence[str]):
    """Opens splits.

    Raises:
      UserError: the corpus has no such split.
    """
    self._corpus = corpus
    self._records = {split: corpus.records(split) for split in splits}

  def __len__(self) -> int:
    return sum(map(len, self._records.values()))

  def describe(self) -> dict[str, Any]:
    """See `FrameSource`."""
    sizes = {split: len(records) for split, records in self._records.items()}
    return {"corpus": self._corpus.name, "splits": sizes, "digest": _digest([self._corpus.identity()])}

  def frames(self, numbers: Iterable[int]) -> Iterator[ClipFrame]:
    """See `FrameSource`."""
    for number in numbers:
      split, index = self._locate(number)
      record = self._records[split][index]
      frames = record["frames"]
      yield ClipFrame(number, record_text(record, "id"), split, frames[middle_frame(len(frames))])

  def _locate(self, number: int) -> tuple[str, int]:
    for split, records in self._records.items():
      if number < len(records):
        return split, number
      number -= len(records)
    raise IndexError(number)


class VideoFrames:
  """Clips of video files, images and folders of frames: the frame that a corpus with 3 frames a second stores."""

  def __init__(self, items: Sequence[Item], threads: int = 0):
    """Args: `items` are the clips; `threads` decode, each with a process; 0: one per core."""
    self._items = items
    self._threads = threads or os.cpu_count() or 1
    self._settings = FrameSettings(fps=CORPUS_FPS)

  def __len__(self) -> int:
    return len(self._items)

  def describe(self) -> dict[str, Any]:
    """See `FrameSource`."""
    clips = ([item.split, item.id, item.start, item.end] for item in self._items)
    return {"clips": len(self._items), "frames": self._settings.describe(), "digest": _digest(clips)}

  def frames(self, numbers: Iterable[int]) -> Iterator[ClipFrame]:
    """See `FrameSource`."""
    idle: queue.SimpleQueue[DecodeProcess] = queue.SimpleQueue()
    with contextlib.ExitStack() as stack:
      for _ in range(self._threads):
        idle.put(stack.enter_context(DecodeProcess(self._settings, timeout=_DECODE_TIMEOUT)))

      def read(number: int) -> ClipFrame:
        decoder = idle.get()
        try:
          return _read_clip(self._items[number], number, decoder)
        finally:
          idle.put(decoder)

      for _, frame in map_in_threads(numbers, read, self._threads):
        if isinstance(frame, MediaError):
          raise frame
        yield frame


def _read_clip(item: Item, number: int, decoder: DecodeProcess) -> ClipFrame:
  frames = read_frames(item, decoder, Counter())
  if isinstance(frames, SkippedClip):
    return ClipFrame(number, item.id, item.split, problem=f"{item.video}: {frames.detail}")
  return ClipFrame(number, item.id, item.split, frames[middle_frame(len(frames))])


def manifest_items(path: str) -> list[Item]:
  """Returns the clips of a manifest of video_manifest, with the ids and splits that a build gives them.

  Raises:
    UserError: a line is invalid, or two clips of a split have the same id.
  """
  from clipvip_jax.data.video_manifest.video_manifest_dataset_builder import read_items  # late: imports TFDS

  items = list(read_items(epath.Path(path)))
  seen: set[tuple[str, str]] = set()
  for item in items:
    if (item.split, item.id) in seen:
      raise UserError(
        f'{path}: two clips of split {item.split!r} have the id {item.id!r}; give each an "id" of its own'
      )
    seen.add((item.split, item.id))
  return items


def folder_items(folder: pathlib.Path | epath.Path) -> list[Item]:
  """Returns a clip for each video in a folder; its id is its path below the folder, as of a manifest in that folder.

  Raises:
    UserError: the folder has no videos, or the name of one has control characters.
  """
  videos = list_media.list_videos(folder)
  names = [path.relative_to(folder).as_posix() for path in videos]
  return [
    Item(id=check_id(name, f"{folder}"), split="", video=os.fspath(path))
    for name, path in zip(names, videos, strict=True)
  ]  # fmt: skip


def _digest(values: Iterable[Any]) -> str:
  digest = hashlib.sha256()
  for value in values:
    digest.update(json.dumps(value, sort_keys=True).encode())
  return digest.hexdigest()[:16]
