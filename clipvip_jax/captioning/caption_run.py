"""Captions all clips of a source into files that resume: each is written when the last of its clips is done."""

import collections
import contextlib
import dataclasses
import json
import math
import pathlib
import threading
from collections.abc import Callable, Generator, Iterable
from typing import Any

from clipvip_jax.captioning import cleaning
from clipvip_jax.captioning.cleaning import Cleaned
from clipvip_jax.captioning.engine import FAILED, REFUSED_IMAGE, Answer, Engine, NumberedFrame
from clipvip_jax.captioning.frame_sources import ClipFrame, FrameSource
from clipvip_jax.input_pipeline.tokenizer import Tokenizer
from clipvip_jax.utils import config_tree
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.json_shards import JsonShards, Part, Row
from clipvip_jax.utils.log import log, printable
from clipvip_jax.utils.progress import ProgressReporter
from clipvip_jax.utils.versions import __version__

STEM = "captions"
SUMMARY_FILE = "summary.json"
UNREADABLE = "unreadable"  # reason for which a clip has no caption: its video cannot be decoded
_RETRIED = (FAILED, REFUSED_IMAGE, UNREADABLE)  # reasons that may pass: the next run tries these clips again
_MAX_ANSWER = 1000  # characters of an answer that are kept beside its caption
_MAX_NAMED = 5  # clips without answer that are logged
_MAX_FAILURES = 20  # clips without answer one after another, after which a run ends


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunSettings:
  """How clips are captioned.

  Attributes:
    out: folder of the output, local or in a bucket.
    tokenizer: of the text tower, see `text_length`.
    text_length: tokens that the text tower reads, with start and end; longer captions are cut.
    clips_per_file: the most that an interruption loses.
    part: files that this process writes.
    max_skipped: accepted fraction of clips without a caption.
  """

  out: pathlib.PurePath
  tokenizer: Tokenizer
  text_length: int
  clips_per_file: int = 512
  part: Part = dataclasses.field(default_factory=Part)
  max_skipped: float = 0.05


@dataclasses.dataclass
class Summary:
  """Counts of the clips of an output, or of its part.

  Attributes:
    clips: number of clips.
    captions: clips with a caption.
    left_out: clips without, by reason.
    changed: captions by what `cleaning` removed from the answer.
  """

  clips: int = 0
  captions: int = 0
  left_out: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
  changed: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)

  def add(self, rows: Iterable[Row]) -> None:
    """Counts rows of an output."""
    for row in rows:
      self.clips += 1
      self.captions += bool(row["caption"])
      self.left_out.update([row["left_out"]] if row.get("left_out") else [])
      self.changed.update(row.get("changed", ()))

  def __str__(self) -> str:
    parts = [f"captions of {self.captions:,} of {self.clips:,} clips"]
    for title, counts in (("left out", self.left_out), ("changed", self.changed)):
      if counts:
        parts.append(f"{title}: " + ", ".join(f"{counts[name]:,} {name.replace('_', ' ')}" for name in sorted(counts)))
    return "; ".join(parts)


def caption_clips(source: FrameSource, engine: Engine, settings: RunSettings) -> Summary:
  """Captions the clips of a source; idempotent, and resumes where an earlier call was interrupted.

  An interrupted and resumed run writes the same bytes as an uninterrupted one, if the engine gives the same answers.

  Args:
    source: the clips.
    engine: describes their frames.
    settings: see `RunSettings`.

  Returns:
    Counts of the clips in the files of this part.

  Raises:
    UserError: the output belongs to other clips or settings, another process writes it, the engine cannot be used, or
      too many clips have no caption.
  """
  if not len(source):
    raise UserError("there are no clips to caption; name another corpus, manifest or folder")
  output = JsonShards(settings.out, STEM, _header(source, engine, settings), len(source), settings.clips_per_file)
  with output.locked(settings.part):
    collector = _Collector(output, settings)
    numbers = collector.missing()
    if numbers:
      engine.check()
      with contextlib.closing(collector.frames(source, numbers)) as frames:
        engine.run(frames, collector.done)
    output.check_written(settings.part)
    output.pull(settings.part)
    summary = _summarize(output, output.files(settings.part))
    _write_summary(output)
  missing = summary.clips - summary.captions
  if missing > settings.max_skipped * summary.clips:
    raise UserError(
      f"{settings.out}: {summary}; more than {settings.max_skipped:.1%} have none. Look at the answers in its files,"
      f" and change prompt or model, or accept it with --max_skipped={math.ceil(100 * missing / summary.clips) / 100:g}"
    )
  return summary


def _header(source: FrameSource, engine: Engine, settings: RunSettings) -> dict[str, Any]:
  """Returns everything that determines the captions. Keys and addresses are not among it."""
  cleaned = {"text_length": settings.text_length, "tokenizer": settings.tokenizer.digest}
  header = {"version": __version__, **engine.describe(), "cleaning": cleaned, "source": source.describe()}
  return json.loads(json.dumps(header))


class _Collector:
  """Rows of the files that are not complete. Frames are drawn, and answers arrive, in several threads."""

  def __init__(self, output: JsonShards, settings: RunSettings):
    self._output, self._part = output, settings.part
    self._fits = cleaning.fits_in(settings.tokenizer, settings.text_length)
    self._lock = threading.Lock()
    self._clips: dict[int, ClipFrame] = {}  # that wait for an answer
    self._rows: dict[int, dict[int, Row]] = {}  # of incomplete files, by number of the file and of the clip
    self._done = self._failures = self._named = 0
    self._progress: Callable[[int], None] = lambda done: None

  def missing(self) -> list[int]:
    """Returns the clips to caption: those of files that do not exist, and those that are tried again."""
    missing = []
    for number in self._output.files(self._part):
      items = self._output.items(number)
      rows = self._output.read(number)
      kept = {} if rows is None else dict(zip(items, rows, strict=True))
      kept = {item: row for item, row in kept.items() if row.get("left_out") not in _RETRIED}
      if len(kept) < len(items):
        self._rows[number] = kept
        missing += [item for item in items if item not in kept]
    total = sum(len(self._output.items(number)) for number in self._output.files(self._part))
    if missing and len(missing) < total:
      log.info("resuming: %d of %d clips are done", total - len(missing), total)
    self._progress = ProgressReporter(len(missing), "clips").update
    return missing

  def frames(self, source: FrameSource, numbers: Iterable[int]) -> Generator[NumberedFrame, None, None]:
    """Yields the frames of clips; adds the rows of those that cannot be read."""
    for frame in source.frames(numbers):
      if frame.problem:
        self._warn(frame, UNREADABLE, frame.problem)
        self._add(frame, Cleaned("", UNREADABLE), "")
      else:
        with self._lock:
          self._clips[frame.number] = dataclasses.replace(frame, jpeg=b"")
        yield frame.numbered

  def done(self, number: int, answer: Answer) -> None:
    """Adds the row of a clip.

    Raises:
      UserError: too many clips in succession had no answer.
    """
    with self._lock:
      frame = self._clips.pop(number)
      self._failures = self._failures + 1 if answer.failure else 0
    if answer.failure:
      self._warn(frame, answer.failure, answer.detail)
      cleaned = Cleaned("", answer.failure)
    elif answer.refusal:
      cleaned = Cleaned("", cleaning.REFUSAL)
    else:
      cleaned = cleaning.clean_answer(answer.text, self._fits, incomplete=answer.incomplete)
    if self._failures >= _MAX_FAILURES:
      raise UserError(
        f"no answer for {self._failures} clips in succession, the last time: {printable(answer.detail)}. Complete files"
        " are kept; correct the cause, then run the same command again to resume"
      )
    self._add(frame, cleaned, answer.text)

  def _add(self, frame: ClipFrame, cleaned: Cleaned, answer: str) -> None:
    """Adds a row, and writes its file if that is then complete."""
    file = frame.number // self._output.items_per_file
    with self._lock:
      self._rows[file][frame.number] = _row(frame, cleaned, answer)
      complete = len(self._rows[file]) == len(self._output.items(file))
      rows = self._rows.pop(file) if complete else {}
      self._done += 1
      self._progress(self._done)
    if complete:
      self._output.write(file, [rows[number] for number in sorted(rows)])

  def _warn(self, frame: ClipFrame, reason: str, detail: str) -> None:
    with self._lock:
      self._named += 1
      named = self._named
    if named <= _MAX_NAMED:
      more = "; further clips are counted only" if named == _MAX_NAMED else ""
      log.warning("%s: %s (%s)%s", printable(frame.name), reason.replace("_", " "), printable(detail), more)


def _row(frame: ClipFrame, cleaned: Cleaned, answer: str) -> Row:
  """Returns the row of a clip: what it says does not depend on when the answer arrived."""
  return {
    "id": frame.name,
    **({"split": frame.split} if frame.split else {}),
    "caption": cleaned.caption,
    **({"left_out": cleaned.left_out} if cleaned.left_out else {}),
    **({"changed": list(cleaned.changes)} if cleaned.changes else {}),
    **({"answer": printable(answer, _MAX_ANSWER)} if answer and answer != cleaned.caption else {}),
  }


def _summarize(output: JsonShards, files: Iterable[int]) -> Summary:
  summary = Summary()
  for number in files:
    summary.add(output.read(number) or [])
  return summary


def _write_summary(output: JsonShards) -> None:
  """Writes the counts of all parts when they are complete."""
  if not all(output.path(number).exists() for number in range(output.num_files)):
    return
  content = {"header": output.header, **vars(_summarize(output, range(output.num_files)))}
  config_tree.write_json(output.local / SUMMARY_FILE, content)
  output.publish(output.local / SUMMARY_FILE)
