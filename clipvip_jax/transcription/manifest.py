"""Manifest of clips, cut from transcribed videos along sentences."""

import collections
import dataclasses
import hashlib
import json
import math
import os
import pathlib
from collections.abc import Iterator, Sequence

from clipvip_jax.inference import segments
from clipvip_jax.transcription.sentences import Cut, cut_sentences
from clipvip_jax.transcription.transcripts import Transcript
from clipvip_jax.utils import storage
from clipvip_jax.utils.atomic_write import atomic_path, write_problem
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import log, printable

_MAX_NAMED = 3  # skipped videos that an error message names

Row = dict[str, object]


@dataclasses.dataclass(frozen=True)
class CutSettings:
  """How videos are cut into clips.

  Attributes:
    cut: "sentences", or "none": each video is one clip.
    min_seconds: shortest clip of sentences.
    max_seconds: longest clip of sentences.
    silent_seconds: length of the clips of videos without speech, which have no subtitle; 0: such videos are skipped.
  """

  cut: str = "sentences"
  min_seconds: float = 3.0
  max_seconds: float = 20.0
  silent_seconds: float = 0.0

  def check(self) -> None:
    """Raises UserError for a value out of range."""
    if not (0 <= self.min_seconds <= self.max_seconds and 0 < self.max_seconds < math.inf):
      raise UserError(
        f"--min_seconds={self.min_seconds:g} and --max_seconds={self.max_seconds:g} must be positive, the first at most"
        " the second"
      )
    if self.silent_seconds and not 0.1 <= self.silent_seconds < math.inf:
      raise UserError(f"--silent_seconds={self.silent_seconds:g} must be 0, or at least 0.1")


def write_manifest(
  out: pathlib.Path,
  videos: Sequence[pathlib.Path],
  transcripts: Sequence[Transcript],
  settings: CutSettings,
  max_skipped: float,
  validation: float = 0.0,
) -> int:
  """Writes the clips of all videos as JSON lines that `data_tool build` takes, atomically; logs what is skipped.

  Args:
    out: the manifest.
    videos: paths, which are written relative to the manifest where they are below its folder.
    transcripts: of these videos.
    settings: how they are cut.
    max_skipped: the largest fraction of videos that may be skipped, 0 to 1.
    validation: fraction of the videos whose clips are the split "validation", 0 to 1. Which ones depends on the
      paths in the manifest; adding videos may move a few between the splits.

  Returns:
    Number of clips.

  Raises:
    UserError: too many videos were skipped, nothing is said in any, too few are left to hold some out, or the file
      cannot be written.
  """
  _check_skipped(videos, transcripts, max_skipped, keeps_silent=settings.silent_seconds > 0)
  silent = _silent_clips(videos, transcripts, settings)
  counts: collections.Counter[str] = collections.Counter()
  rows = {
    _name(video, out): silent[video] if video in silent else list(_rows(transcript, settings, counts))
    for video, transcript in zip(videos, transcripts, strict=True)
  }
  if not any(rows.values()):
    raise UserError(
      f"none of {len(videos)} videos has a clip ({_describe(counts) or 'no speech'}); check the transcripts,"
      " --min_seconds and --max_seconds, or keep videos without speech with --silent_seconds=10"
    )
  held_out = _hold_out([name for name, clips in rows.items() if clips], validation)
  lines = [
    json.dumps({"video": name, **row, **({"split": "validation"} if name in held_out else {})}, ensure_ascii=False)
    for name, clips in rows.items()
    for row in clips
  ]
  _write_lines(out, lines)
  if silent:
    log.info("%d videos without speech have clips without a subtitle", len(silent))
  if held_out:
    log.info('held out %d of %d videos: their clips are the split "validation"', len(held_out), len(rows))
  if skipped := _describe(counts):
    log.info("skipped: %s", skipped)
  return len(lines)


def _write_lines(out: pathlib.Path, lines: Sequence[str]) -> None:
  try:
    with atomic_path(out) as temporary:
      temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
  except OSError as error:
    raise UserError(f"--out={out} {write_problem(error, 'name another file')}; transcripts are kept") from error


def _rows(transcript: Transcript, settings: CutSettings, counts: collections.Counter[str]) -> Iterator[Row]:
  """Yields the fields of each clip of a video."""
  if not transcript.words:
    counts["videos that were skipped" if transcript.skipped else "videos without speech"] += 1
    return
  counts["segments without speech"] += transcript.imagined
  if settings.cut == "none":
    yield {"subtitle": " ".join(word.text for word in transcript.words)}
    return
  cut: Cut = cut_sentences(transcript.words, settings.min_seconds, settings.max_seconds)
  counts["passages that are too short"] += cut.too_short
  counts["words that are too long"] += cut.too_long
  for clip in cut.clips:
    yield {"start": clip.start, "end": clip.end, "subtitle": clip.subtitle}


def _silent_clips(
  videos: Sequence[pathlib.Path], transcripts: Sequence[Transcript], settings: CutSettings
) -> dict[pathlib.Path, list[Row]]:  # fmt: skip
  """Returns the fields of the clips of videos without speech; a video that cannot be read is one clip."""
  if not settings.silent_seconds:
    return {}
  silent = [video for video, transcript in zip(videos, transcripts, strict=True) if transcript.is_silent]
  if settings.cut == "none":
    return {video: [{}] for video in silent}
  return {
    video: [{} if clip.end is None else {"start": clip.start, "end": clip.end} for clip in clips]
    for video, clips in zip(silent, segments.split_videos(silent, settings.silent_seconds, 0), strict=True)
  }


def _hold_out(names: Sequence[str], fraction: float) -> set[str]:
  """Returns a fraction of the videos, at least one: those with the smallest digests, which few additions change."""
  if not fraction:
    return set()
  count = max(1, round(fraction * len(names)))
  if count >= len(names):
    raise UserError(
      f"--validation={fraction:g} of {len(names)} videos leaves none for training; add videos or lower it"
    )
  return set(sorted(names, key=lambda name: hashlib.sha256(os.fsencode(name)).digest())[:count])


def _name(video: pathlib.Path, out: pathlib.Path) -> str:
  """Returns a video's path relative to the manifest if it is below its local folder, else the absolute one."""
  if storage.is_remote(video):
    return os.fspath(video)
  absolute, folder = (pathlib.Path(os.path.abspath(path)) for path in (video, out.parent))  # noqa: PTH100  # keeps links
  return os.fspath(absolute.relative_to(folder) if absolute.is_relative_to(folder) else absolute)


def _check_skipped(
  videos: Sequence[pathlib.Path], transcripts: Sequence[Transcript], limit: float, *, keeps_silent: bool
) -> None:  # fmt: skip
  skipped = [
    (video, t) for video, t in zip(videos, transcripts, strict=True) if t.skipped and not (keeps_silent and t.is_silent)
  ]
  if skipped and (len(skipped) > limit * len(videos) or len(skipped) == len(videos)):
    first = "; ".join(f"{video}: {t.skipped}" for video, t in skipped[:_MAX_NAMED])
    silent = any(t.is_silent for _, t in skipped)
    keep = "keep those without speech as clips without a subtitle with --silent_seconds=10, " if silent else ""
    raise UserError(
      f"{len(skipped)} of {len(videos)} videos were skipped, first {printable(first)}. Repair them, {keep}or raise"
      " --max_skipped, and run the same command again: it resumes"
    )


def _describe(counts: collections.Counter[str]) -> str:
  return ", ".join(f"{count} {name}" for name, count in sorted(counts.items()) if count)
