"""The account of a build: which clips were expected, which were found, and why the others were left out."""

from __future__ import annotations

import collections
import dataclasses
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import printable

LEFT_OUT_FILE = "left_out.tsv"  # beside the records
# Why a clip is left out: there is no such file; it cannot be decoded; it has too few frames; nothing is said of it.
REASONS = ("missing", "undecodable", "too_short", "without_text")
# Texts that were looked up for a clip and not found; the clip is kept as long as one text is left.
LACKING = ("lacking_subtitle", "lacking_caption")
_ROUNDING = 1e-6  # clips: 0.29 of 100 are 28.999...
_NAMED = 5  # clips that an error message names itself


@dataclasses.dataclass(frozen=True)
class SkippedClip:
  """A clip that is not in the corpus. reason: one of REASONS; detail: what was seen, in plain words.

  again: the next build tries it anew: it took too long, or its decoder was ended.
  """

  name: str
  reason: str
  detail: str
  again: bool = False


class Coverage:
  """Counts of each split; nothing is dropped in silence."""

  def __init__(self) -> None:
    self._counts: dict[str, collections.Counter[str]] = {}
    self._first: dict[str, list[SkippedClip]] = {}

  def expect(self, split: str, clips: int) -> None:
    """Starts the account of a split of `clips` clips."""
    none = dict.fromkeys(("found", *REASONS, *LACKING), 0)
    self._counts[split] = collections.Counter({"expected": clips, **none})
    self._first[split] = []

  def found(self, split: str, clips: int = 1) -> None:
    """Counts good clips."""
    self._counts[split]["found"] += clips

  def lacking(self, split: str, counts: Mapping[str, int]) -> None:
    """Counts clips without a text that was looked up: {one of LACKING: clips}."""
    self._counts[split].update(counts)

  def left_out(self, split: str, clips: Iterable[SkippedClip]) -> None:
    """Counts clips that cannot be used; the first few are kept for the message."""
    for clip in clips:
      self._counts[split][clip.reason] += 1
      if len(self._first[split]) < _NAMED:
        self._first[split].append(clip)

  def check(self, split: str, most: float, file: pathlib.Path, override: str) -> None:
    """Refuses a split with too many clips left out.

    Args:
      split: its name.
      most: the share, 0 to 1, that may be left out.
      file: names all of them.
      override: what to run to accept more.

    Raises:
      UserError: more are left out; counts by reason and the first few are in the message.
    """
    counts = self._counts[split]
    lost = sum(counts[reason] for reason in REASONS)
    if lost <= most * counts["expected"] + _ROUNDING:
      return
    why = ", ".join(f"{counts[reason]} {reason.replace('_', ' ')}" for reason in REASONS if counts[reason])
    named = "; ".join(f"{clip.name}: {clip.detail}" for clip in self._first[split])
    raise UserError(
      f"split {split!r}: {lost} of {counts['expected']} clips cannot be used ({why}), at most {most:.1%} may be."
      f" {file} names all of them, first {printable(named)}. Mend these files and build again, or accept it: {override}"
    )

  def check_lacking(self, split: str, most: float, override: str) -> None:
    """Refuses a split where more than `most` of the clips lack a text that was looked up, as `check` does."""
    counts = self._counts[split]
    for name in LACKING:
      if counts[name] > most * counts["expected"] + _ROUNDING:
        field = name.removeprefix("lacking_")
        raise UserError(
          f"split {split!r}: {counts[name]} of {counts['expected']} clips have no {field}, at most {most:.1%} may lack"
          f" it. Is the file of {field}s that of these clips? If so: {override}"
        )

  def as_metadata(self) -> dict[str, dict[str, int]]:
    """{split: {"expected", "found", each of REASONS, each of LACKING}}, for the data set's metadata."""
    return {split: dict(counts) for split, counts in self._counts.items()}


def line(split: str, clip: SkippedClip) -> str:
  """A line of left_out.tsv: SPLIT, REASON, NAME, DETAIL."""
  return "\t".join(printable(text) for text in (split, clip.reason, clip.name, clip.detail)) + "\n"


def check_share(name: str, value: Any) -> None:
  """Raises UserError unless `value` is a share."""
  if not isinstance(value, int | float) or not 0 <= value <= 1:
    raise UserError(f"{name} is {value}: a share lies between 0 and 1")
