"""Transcripts of many videos: from subtitle files beside them or an engine, resumable, shared among machines."""

import collections
import dataclasses
import hashlib
import os
import pathlib
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from clipvip_jax.input_pipeline.media_error import MediaError
from clipvip_jax.transcription.audio import NO_SOUND, read_chunks
from clipvip_jax.transcription.engine import Engine, NumberedChunk
from clipvip_jax.transcription.segments import Speech
from clipvip_jax.transcription.subtitle_files import SubtitleError, find_subtitles, read_subtitles
from clipvip_jax.transcription.words import Word
from clipvip_jax.utils.bucket_copies import errors_by_address, fetch_file
from clipvip_jax.utils.json_shards import JsonShards, Part, Row
from clipvip_jax.utils.log import log, printable
from clipvip_jax.utils.progress import ProgressReporter
from clipvip_jax.utils.versions import __version__

_VIDEOS_PER_FILE = 16  # the most that an interruption loses
_NO_SUBTITLES = "has no subtitle file"


@dataclasses.dataclass(frozen=True)
class SubtitleFiles:
  """Use of subtitle files beside videos.

  Attributes:
    use: whether they are read.
    language: see `find_subtitles`.
  """

  use: bool = True
  language: str = ""

  def read(self, video: pathlib.Path) -> tuple[str, list[Word]] | None:
    """Returns (name of the file, its words) of a video; None without one. Raises SubtitleError if it is corrupt."""
    path = find_subtitles(video, self.language) if self.use else None
    if path is None:
      return None
    with errors_by_address():
      return path.name, read_subtitles(fetch_file(path))


@dataclasses.dataclass(frozen=True)
class Transcript:
  """Words of a video; why it has been skipped, or "" if it was not; number of segments that a model imagined."""

  words: list[Word]
  skipped: str
  imagined: int

  @property
  def is_silent(self) -> bool:
    """Whether nothing is known to be said in the video: it has no speech, no sound, or no subtitle file."""
    return not self.words and self.skipped in ("", NO_SOUND, _NO_SUBTITLES)


class Transcripts:
  """Transcripts of a list of videos, in files beside the manifest that is made of them."""

  def __init__(
    self, videos: Sequence[pathlib.Path], out: pathlib.PurePath, files: SubtitleFiles, engine: Engine | None
  ):
    """Reads nothing yet.

    Args:
      videos: to transcribe.
      out: the manifest, local or in a bucket; transcripts are in the folder OUT.transcripts.
      files: whether and which subtitle files are used, in preference to the engine.
      engine: for the other videos; None: these are skipped.
    """
    self._videos, self._files, self._engine = videos, files, engine
    digest = hashlib.blake2b(os.fsencode("\0".join(map(os.fspath, videos))), digest_size=8).hexdigest()
    settings = engine.describe() if engine else {"engine": "files", "language": files.language}
    header = {
      "version": __version__, **settings, "subtitle_files": files.use, "videos": f"{len(videos)}, digest {digest}"
    }  # fmt: skip
    folder = out.with_name(f"{out.name}.transcripts")
    self._shards = JsonShards(folder, "transcripts", header, len(videos), _VIDEOS_PER_FILE)

  def write(self, part: Part) -> None:
    """Transcribes the videos of a part whose transcripts are not there; tries those again that were skipped.

    Raises:
      UserError: the engine cannot be used, or another process writes the same files or deletes one.
    """
    with self._shards.locked(part):
      job = _Job(self._videos, self._files, self._engine, self._shards, part)
      if self._engine is not None:
        if job.num_videos:
          self._engine.check()
          self._engine.run(job.chunks(), job.add)
      else:
        collections.deque(job.chunks(), maxlen=0)
      self._shards.check_written(part)
      self._shards.pull(part)  # those of other parts

  def read(self) -> list[Transcript] | None:
    """Returns the transcripts of all videos; None if some are missing, which another part writes."""
    files = [self._shards.read(number) for number in range(self._shards.num_files)]
    if any(rows is None for rows in files):
      return None
    return [_from_row(row) for rows in files for row in rows or ()]

  @property
  def folder(self) -> pathlib.PurePath:
    """Folder of the files."""
    return self._shards.folder


def _from_row(row: Row) -> Transcript:
  return Transcript([Word(*word) for word in row["words"]], row["skipped"], row["imagined"])


class _Job:
  """Videos of a part that are to be transcribed. Files are written as soon as all of their videos are."""

  def __init__(
    self,
    videos: Sequence[pathlib.Path],
    files: SubtitleFiles,
    engine: Engine | None,
    shards: JsonShards,
    part: Part,
  ):
    self._videos, self._files, self._engine, self._shards = videos, files, engine, shards
    self._rows: dict[int, dict[int, Row]] = {}  # {file: {video: row}} of the files to write
    self._todo: list[int] = []
    for number in shards.files(part):
      rows, items = shards.read(number), shards.items(number)
      kept = {item: row for item, row in zip(items, rows or (), strict=False) if not row["skipped"]}
      if len(kept) < len(items):
        self._rows[number] = kept
        self._todo += [item for item in items if item not in kept]
    self._waiting: dict[int, _Waiting] = {}
    self._chunk_videos: dict[int, tuple[int, float]] = {}  # {number of a chunk: video, start}
    self._lock = threading.Lock()  # an engine may draw chunks in another thread than it returns results in
    self._progress = ProgressReporter(len(self._todo), "videos")
    self._done = 0

  @property
  def num_videos(self) -> int:
    """Number of videos to transcribe."""
    return len(self._todo)

  def chunks(self) -> Iterator[NumberedChunk]:
    """Yields the sound of all videos that have no subtitle file."""
    count = 0
    for video in self._todo:
      path = self._videos[video]
      if (row := self._row_without_sound(path)) is not None:
        self._finish(video, row)
        continue
      self._waiting[video] = _Waiting()
      reason = ""
      try:
        for chunk in read_chunks(path):
          with self._lock:
            self._chunk_videos[count] = video, chunk.start
            self._waiting[video].pending += 1
          yield count, chunk
          count += 1
      except MediaError as error:  # of a bucket, another error says nothing about the video
        reason = " ".join(error.reason.split())
      self._end(video, reason)

  def _row_without_sound(self, path: pathlib.Path) -> Row | None:
    """Returns the row of a video whose sound is not needed; None for others."""
    try:
      if (found := self._files.read(path)) is not None:
        return _row(path, found[1], found[0])
    except SubtitleError as error:
      return _row(path, [], skipped=" ".join(str(error).removeprefix(f"{path}: ").split()))
    return _row(path, [], skipped=_NO_SUBTITLES) if self._engine is None else None

  def add(self, number: int, speech: Speech) -> None:
    """Adds the result of a part of the sound."""
    with self._lock:
      video, start = self._chunk_videos.pop(number)
      waiting = self._waiting[video]
      waiting.words += [Word(word.start + start, word.end + start, word.text) for word in speech.words]
      waiting.imagined += speech.imagined
      waiting.skipped = waiting.skipped or speech.failure
      waiting.pending -= 1
    self._finish_complete(video)

  def _end(self, video: int, skipped: str) -> None:
    """Records that all of the sound of a video was read."""
    with self._lock:
      waiting = self._waiting[video]
      waiting.is_read, waiting.skipped = True, waiting.skipped or skipped
    self._finish_complete(video)

  def _finish_complete(self, video: int) -> None:
    with self._lock:
      waiting = self._waiting.get(video)
      if waiting is None or waiting.pending or not waiting.is_read:
        return
      del self._waiting[video]
    source = str(self._engine.describe()["engine"]) if self._engine else ""
    words = [] if waiting.skipped else sorted(waiting.words)
    self._finish(video, _row(self._videos[video], words, source, waiting.skipped, waiting.imagined))

  def _finish(self, video: int, row: Row) -> None:
    """Adds the row of a video, and writes its file if that is complete."""
    if row["skipped"]:
      log.warning("skipped %s: %s", printable(self._videos[video]), printable(row["skipped"]))
    with self._lock:
      number = video // self._shards.items_per_file
      rows = self._rows[number]
      rows[video] = row
      self._done += 1
      done, is_complete = self._done, len(rows) == len(self._shards.items(number))
    if is_complete:
      self._shards.write(number, [rows[item] for item in self._shards.items(number)])
    self._progress.update(done)


@dataclasses.dataclass
class _Waiting:
  """Results of a video that is not completely transcribed."""

  words: list[Word] = dataclasses.field(default_factory=list)
  imagined: int = 0
  pending: int = 0
  is_read: bool = False
  skipped: str = ""


def _row(path: pathlib.Path, words: Sequence[Word], source: str = "", skipped: str = "", imagined: int = 0) -> Row:
  timed: list[Any] = [[round(word.start, 3), round(word.end, 3), word.text] for word in words]
  return {"video": os.fspath(path), "source": source, "skipped": skipped, "imagined": imagined, "words": timed}
