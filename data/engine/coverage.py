"""Coverage of a corpus: counts of the clips that were expected, found and skipped, by split and reason."""

from __future__ import annotations

import collections
import dataclasses
import math
import os
from collections.abc import Iterable, Mapping

from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import printable

SKIPPED_FILE = "skipped.tsv"  # beside the records
# Why a clip is skipped: no such file; not decodable; fewer than min_frames frames; no subtitle, caption or description.
REASONS = ("missing", "undecodable", "too_short", "without_text")
# Counts of clips without a text that was looked up. These clips are kept if they have another text.
MISSING_TEXT_KEYS = ("lacking_subtitle", "lacking_caption")
_TOLERANCE = 1e-6  # clips; 0.29 * 100 is 28.999...
_LISTED = 5  # skipped clips listed in an error message


@dataclasses.dataclass(frozen=True)
class SkippedClip:
  """A clip that is not in the corpus.

  Attributes:
    name: id or path of the clip.
    reason: one of REASONS.
    detail: description of the error.
    retry: whether the next build tries the clip again, since the decoder timed out or crashed.
  """

  name: str
  reason: str
  detail: str
  retry: bool = False


def missing_text_key(field: str) -> str:
  """Returns the key among MISSING_TEXT_KEYS of "subtitle" or "caption"."""
  return f"lacking_{field}"


class Coverage:
  """Counts of clips by split, and checks of them."""

  def __init__(self) -> None:
    self._counts: dict[str, collections.Counter[str]] = {}
    self._first: dict[str, list[SkippedClip]] = {}

  def add_split(self, split: str, expected: int) -> None:
    """Adds a split of `expected` clips with all other counts at 0."""
    zeros = dict.fromkeys(("found", *REASONS, *MISSING_TEXT_KEYS), 0)
    self._counts[split] = collections.Counter({"expected": expected, **zeros})
    self._first[split] = []

  def add_found(self, split: str, clips: int) -> None:
    """Counts clips that are in the corpus."""
    self._counts[split]["found"] += clips

  def add_counts(self, split: str, counts: Mapping[str, int]) -> None:
    """Adds counts of clips by MISSING_TEXT_KEYS, and by notes on their files, such as "hdr"."""
    self._counts[split].update(counts)

  def add_skipped(self, split: str, clips: Iterable[SkippedClip]) -> None:
    """Counts skipped clips; keeps the first few for error messages."""
    for clip in clips:
      self._counts[split][clip.reason] += 1
      if len(self._first[split]) < _LISTED:
        self._first[split].append(clip)

  def check_skipped(self, split: str, limit: float, file: os.PathLike[str]) -> None:
    """Checks that not too many clips of a split were skipped.

    Args:
      split: name of the split.
      limit: the accepted fraction, 0 to 1.
      file: the list of skipped clips, named in the message.

    Raises:
      UserError: more clips were skipped, or all of them; the message has counts by reason and the first clips.
    """
    counts = self._counts[split]
    skipped = sum(counts[reason] for reason in REASONS)
    if skipped > limit * counts["expected"] + _TOLERANCE:
      reasons = ", ".join(f"{counts[reason]} {reason.replace('_', ' ')}" for reason in REASONS if counts[reason])
      listed = "; ".join(f"{clip.name}: {clip.detail}" for clip in self._first[split])
      raise UserError(
        f"split {split!r}: {skipped} of {counts['expected']} clips were skipped ({reasons}), more than {limit:.1%}."
        f" First: {printable(listed)}; all are listed in {file}. Repair these files and build again, or accept it"
        f" with --max_skipped={math.ceil(100 * skipped / counts['expected']) / 100:g}"
      )
    if not counts["found"]:
      raise UserError(f"split {split!r}: all {skipped} clips were skipped, see {file}; repair these files")

  def check_missing_texts(self, split: str, limit: float) -> None:
    """Checks that at most the fraction `limit` of the clips has no text in a lookup; see `check_skipped`."""
    counts = self._counts[split]
    for key in MISSING_TEXT_KEYS:
      if counts[key] > limit * counts["expected"] + _TOLERANCE:
        field = key.removeprefix("lacking_")
        raise UserError(
          f"split {split!r}: {counts[key]} of {counts['expected']} clips have no {field}, more than {limit:.1%}. Check"
          f" that the file of {field}s belongs to these clips, or accept it with --max_missing_text=1"
        )

  def as_metadata(self) -> dict[str, dict[str, int]]:
    """Returns {split: {"expected", "found", each of REASONS, each of MISSING_TEXT_KEYS, each note: count}}."""
    return {split: dict(counts) for split, counts in self._counts.items()}


def skipped_line(split: str, clip: SkippedClip) -> str:
  """Formats a line of SKIPPED_FILE: split, reason, name and detail, separated by tabs."""
  return "\t".join(printable(text) for text in (split, clip.reason, clip.name, clip.detail)) + "\n"
