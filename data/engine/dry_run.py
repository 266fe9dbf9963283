"""Dry run of a build: reads the annotations, looks for the videos and decodes a random sample. Writes nothing."""

from __future__ import annotations

import array
import dataclasses
import math
import tempfile
from collections import Counter
from collections.abc import Iterator

import numpy as np
from etils import epath

from clipvip_jax.data.engine import bad_lines
from clipvip_jax.data.engine.builder import CorpusBuilder
from clipvip_jax.data.engine.clip_record import clip_record, skipped_undecoded
from clipvip_jax.data.engine.coverage import MISSING_TEXT_KEYS, REASONS, SkippedClip
from clipvip_jax.data.engine.items import Item
from clipvip_jax.data.engine.plan import Plan
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import printable
from clipvip_jax.utils.progress import ProgressReporter

_LISTED = 20  # skipped clips of each split in the report
_QUANTILE = 1.96  # of the normal distribution, for intervals of 95%


@dataclasses.dataclass
class SplitCheck:
  """Result for one split.

  Attributes:
    clips: number of clips in the annotations.
    missing: number of clips without a video.
    corrupt: number of clips with corrupt annotations, none of which is decoded.
    decoded: number of clips in the decoded sample, including those that failed.
    texts: number of clips by text field.
    counts: number of decoded clips by coverage.MISSING_TEXT_KEYS, and by notes on their files, such as "truncated".
    skipped: clips that a build would skip.
  """

  clips: int
  missing: int = 0
  corrupt: int = 0
  decoded: int = 0
  texts: Counter[str] = dataclasses.field(default_factory=Counter)
  counts: Counter[str] = dataclasses.field(default_factory=Counter)
  skipped: list[SkippedClip] = dataclasses.field(default_factory=list)

  @property
  def skipped_fraction(self) -> float:
    """Fraction of clips that a build would skip; an estimate if not all were decoded."""
    return self._extrapolate(self._undecodable / self.decoded if self.decoded else 0.0)

  @property
  def is_estimate(self) -> bool:
    """Whether some of the clips that have a video and valid annotations were not decoded."""
    return self.decoded < self._decodable

  @property
  def interval(self) -> tuple[float, float]:
    """95% interval of `skipped_fraction`: Wilson's score interval for the decoded sample."""
    if not self.is_estimate:
      return self.skipped_fraction, self.skipped_fraction
    low, high = wilson_interval(self._undecodable, self.decoded)
    return self._extrapolate(low), self._extrapolate(high)

  def describe(self) -> str:
    """Formats `skipped_fraction`, and that it is an estimate."""
    if not self.is_estimate:
      return f"{self.skipped_fraction:.1%}"
    low, high = self.interval
    return (
      f"{self.skipped_fraction:.1%} (estimate from {self.decoded} of {self._decodable} videos, 95% interval"
      f" {low:.1%} to {high:.1%})"
    )

  @property
  def _decodable(self) -> int:
    return self.clips - self.missing - self.corrupt

  @property
  def _undecodable(self) -> int:
    reasons = Counter(clip.reason for clip in self.skipped)
    return sum(reasons[reason] for reason in REASONS if reason != "missing") - self.corrupt

  def _extrapolate(self, undecodable: float) -> float:
    """Returns the fraction of skipped clips if this fraction of the decodable clips is undecodable."""
    certain = (self.missing + self.corrupt) / self.clips
    return certain + (1 - certain) * undecodable


def wilson_interval(count: int, total: int) -> tuple[float, float]:
  """Returns Wilson's 95% score interval of a proportion `count / total`; (0, 1) for a total of 0."""
  if not total:
    return 0.0, 1.0
  square = _QUANTILE**2
  center = (count + square / 2) / (total + square)
  margin = _QUANTILE / (total + square) * math.sqrt(count * (total - count) / total + square / 4)
  return max(0.0, center - margin), min(1.0, center + margin)


def check_corpus(builder: CorpusBuilder, num_decoded: int) -> dict[str, SplitCheck]:
  """Checks each split.

  Args:
    builder: builder of a corpus, which need not exist.
    num_decoded: number of random clips of each split to decode; splits of up to twice as many are decoded completely;
      -1: all. The same clips are decoded each time.

  Returns:
    {split: result}.

  Raises:
    BadLinesError: lines of the annotations are invalid.
    UserError: the annotations are invalid, or splits do not have their official sizes.
  """
  with tempfile.TemporaryDirectory() as folder:
    with bad_lines.collect():
      plan = builder.plan(epath.Path(folder))
    return {split: _check_split(builder, plan, split, num_decoded) for split in plan.counts}


def _check_split(builder: CorpusBuilder, plan: Plan, split: str, num_decoded: int) -> SplitCheck:
  total = plan.counts[split]
  result, spec = SplitCheck(total), builder.record_spec()
  present = array.array("Q")
  for index, item in enumerate(_items(plan, split)):
    for field in ("descriptions", "subtitle", "caption"):
      result.texts[field] += bool(getattr(item, field))
    if (skipped := skipped_undecoded(item)) is None:
      present.append(index)
    else:
      result.missing += skipped.reason == "missing"
      result.corrupt += skipped.reason != "missing"
      result.skipped.append(skipped)
  sampled = _sample(np.frombuffer(present, np.uint64), num_decoded)
  progress = ProgressReporter(len(sampled), f"sampled clips of split {split}")
  with spec.decode_process() as decoder:
    for index, item in enumerate(_items(plan, split) if sampled else ()):
      if index in sampled:
        record = clip_record(item, spec, decoder, result.counts)
        if isinstance(record, SkippedClip):
          result.skipped.append(dataclasses.replace(record, name=item.id))
        result.decoded += 1
        progress.update(result.decoded)
  return result


def _sample(indices: np.ndarray, count: int) -> set[int]:
  """Returns `count` random indices; all of them if that is at least half, or if `count` is negative."""
  if count < 0 or len(indices) <= 2 * count:
    return set(indices.tolist())
  return set(np.random.default_rng(0).choice(indices, count, replace=False).tolist())


def _items(plan: Plan, split: str) -> Iterator[Item]:
  for shard in plan.shards():
    if shard.split == split:
      yield from plan.items(shard)


def format_report(builder: CorpusBuilder, results: dict[str, SplitCheck]) -> str:
  """Formats results as a table, followed by the first skipped clips of each split."""
  config = builder.builder_config
  lines = [f"{builder.name}/{config.name}: {config.frame_settings().describe()}"]
  lines.append(f"{'split':<12}{'clips':>10}{'missing':>10}{'decoded':>10}{'failed':>8}  texts")
  for split, result in results.items():
    texts = ", ".join(f"{count} {field}" for field, count in result.texts.items() if count)
    failed = sum(clip.reason != "missing" for clip in result.skipped)
    lines.append(f"{split:<12}{result.clips:>10}{result.missing:>10}{result.decoded:>10}{failed:>8}  {texts}")
  for split, result in results.items():
    lines.append(f"split {split!r}: a build would skip {result.describe()}")
    if counts := [f"{count} {name.replace('_', ' ')}" for name, count in result.counts.items() if count]:
      lines.append(f"split {split!r}: of {result.decoded} decoded clips, {', '.join(counts)}")
    for clip in result.skipped[:_LISTED]:
      lines.append(printable(f"{split}: {clip.name}: {clip.reason.replace('_', ' ')}: {clip.detail}"))
    if len(result.skipped) > _LISTED:
      lines.append(f"{split}: and {len(result.skipped) - _LISTED} more")
  return "\n".join(lines)


def check_limits(builder: CorpusBuilder, results: dict[str, SplitCheck]) -> None:
  """Checks results against `max_skipped` and `max_missing_text`.

  Raises:
    UserError: a build would fail.
  """
  limit = builder.options.max_skipped
  over = {split: result for split, result in results.items() if result.skipped_fraction > limit}
  if over:
    fractions = ", ".join(f"{result.describe()} of split {split!r}" for split, result in over.items())
    remedy = ", or decode all with --decode=-1" if any(result.is_estimate for result in over.values()) else ""
    textless = any(clip.reason == "without_text" for result in over.values() for clip in result.skipped)
    texts = " or add texts (--captions=FILES of clipvip_jax.caption)" if textless else ""
    raise UserError(
      f"a build would skip {fractions}, more than {limit:.1%}; repair these files{texts}, or raise"
      f" --max_skipped{remedy}"
    )
  limit = builder.options.max_missing_text
  for split, result in results.items():
    for key in MISSING_TEXT_KEYS:
      if result.counts[key] > limit * result.decoded:
        field = key.removeprefix("lacking_")
        raise UserError(
          f"split {split!r}: {result.counts[key]} of {result.decoded} decoded clips have no {field}, and a build"
          f" accepts {limit:.1%}. Check that the file of {field}s belongs to these clips, or raise --max_missing_text"
        )
