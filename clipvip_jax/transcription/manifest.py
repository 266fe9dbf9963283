"""Manifest of clips, cut from transcribed videos along sentences."""

import collections
import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Iterator, Sequence

from clipvip_jax.transcription.sentences import Cut, cut_sentences
from clipvip_jax.transcription.transcripts import Transcript
from clipvip_jax.utils.atomic_write import atomic_path
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import log, printable

CUTS = ("sentences", "none")
_MAX_NAMED = 3  # skipped videos that an error message names


@dataclasses.dataclass(frozen=True)
class CutSettings:
  """How videos are cut into clips.

  Attributes:
    cut: "sentences", or "none": each video is one clip.
    min_seconds: shortest clip of sentences.
    max_seconds: longest clip of sentences.
  """

  cut: str = "sentences"
  min_seconds: float = 3.0
  max_seconds: float = 20.0

  def check(self) -> None:
    """Raises UserError for a value out of range."""
    if not (0 <= self.min_seconds <= self.max_seconds and 0 < self.max_seconds < math.inf):
      raise UserError(
        f"--min_seconds={self.min_seconds:g} and --max_seconds={self.max_seconds:g} must be positive, the first at most"
        " the second"
      )


def write_manifest(
  out: pathlib.Path,
  videos: Sequence[pathlib.Path],
  transcripts: Sequence[Transcript],
  settings: CutSettings,
  max_skipped: float,
) -> int:
  """Writes the clips of all videos as JSON lines that `data_tool build` takes, atomically; logs what is left out.

  Args:
    out: the manifest.
    videos: paths, which are written relative to the manifest where they are below its folder.
    transcripts: of these videos.
    settings: how they are cut.
    max_skipped: the largest fraction of videos that may be skipped, 0 to 1.

  Returns:
    Number of clips.

  Raises:
    UserError: too many videos were skipped, nothing is said in any, or the file cannot be written.
  """
  _check_skipped(videos, transcripts, max_skipped)
  counts: collections.Counter[str] = collections.Counter()
  lines = [
    json.dumps(row, ensure_ascii=False)
    for video, transcript in zip(videos, transcripts, strict=True)
    for row in _rows(_name(video, out), transcript, settings, counts)
  ]
  if not lines:
    raise UserError(
      f"none of {len(videos)} videos has a clip ({_describe(counts) or 'no speech'}); check the transcripts,"
      " --min_seconds and --max_seconds"
    )
  try:
    with atomic_path(out) as temporary:
      temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
  except OSError as error:
    raise UserError(f"--out={out} cannot be written ({error.strerror}); transcripts are kept") from error
  if counts:
    log.info("left out: %s", _describe(counts))
  return len(lines)


def _rows(
  name: str, transcript: Transcript, settings: CutSettings, counts: collections.Counter[str]
) -> Iterator[dict[str, object]]:
  if not transcript.words:
    counts["videos that were skipped" if transcript.skipped else "videos without speech"] += 1
    return
  counts["segments without speech"] += transcript.imagined
  if settings.cut == "none":
    yield {"video": name, "subtitle": " ".join(word.text for word in transcript.words)}
    return
  cut: Cut = cut_sentences(transcript.words, settings.min_seconds, settings.max_seconds)
  counts["passages that are too short"] += cut.too_short
  counts["words that are too long"] += cut.too_long
  for clip in cut.clips:
    yield {"video": name, "start": clip.start, "end": clip.end, "subtitle": clip.subtitle}


def _name(video: pathlib.Path, out: pathlib.Path) -> str:
  """Returns a video's path relative to the manifest if it is below its folder, else the absolute one."""
  absolute, folder = (pathlib.Path(os.path.abspath(path)) for path in (video, out.parent))  # noqa: PTH100  # keeps links
  return os.fspath(absolute.relative_to(folder) if absolute.is_relative_to(folder) else absolute)


def _check_skipped(videos: Sequence[pathlib.Path], transcripts: Sequence[Transcript], limit: float) -> None:
  skipped = [(video, t.skipped) for video, t in zip(videos, transcripts, strict=True) if t.skipped]
  if len(skipped) > limit * len(videos) or len(skipped) == len(videos):
    first = "; ".join(f"{video}: {reason}" for video, reason in skipped[:_MAX_NAMED])
    raise UserError(
      f"{len(skipped)} of {len(videos)} videos were skipped, first {printable(first)}. Repair them or raise"
      " --max_skipped, and run the same command again: it resumes"
    )


def _describe(counts: collections.Counter[str]) -> str:
  return ", ".join(f"{count} {name}" for name, count in sorted(counts.items()) if count)
