"""Dry run of a build: reads the annotations, looks for the videos and decodes a sample of them. Writes nothing."""

from __future__ import annotations

import dataclasses
import tempfile
from collections import Counter
from collections.abc import Iterator

import numpy as np
from etils import epath

from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import printable
from clipvip_jax.utils.progress import ProgressReporter
from data.engine.builder import CorpusBuilder
from data.engine.clip_record import clip_record, video_exists
from data.engine.coverage import MISSING_TEXT_KEYS, REASONS, SkippedClip
from data.engine.items import Item
from data.engine.plan import Plan

_LISTED = 10  # skipped clips of each split in the report


@dataclasses.dataclass
class SplitCheck:
  """Result for one split.

  Attributes:
    clips: Number of clips in the annotations.
    missing: Number of clips without a video.
    decoded: Number of clips in the decoded sample, including those that failed.
    texts: Number of clips by text field; of the decoded ones, also counts by coverage.MISSING_TEXT_KEYS.
    skipped: Clips that a build would skip.
  """

  clips: int
  missing: int = 0
  decoded: int = 0
  texts: Counter[str] = dataclasses.field(default_factory=Counter)
  skipped: list[SkippedClip] = dataclasses.field(default_factory=list)

  @property
  def skipped_fraction(self) -> float:
    """Estimated fraction of clips that a build would skip."""
    reasons = Counter(clip.reason for clip in self.skipped)
    undecodable = sum(reasons[reason] for reason in REASONS if reason != "missing")
    present = 1 - self.missing / self.clips
    return self.missing / self.clips + present * (undecodable / self.decoded if self.decoded else 0.0)


def check_corpus(builder: CorpusBuilder, num_decoded: int) -> dict[str, SplitCheck]:
  """Checks each split.

  Args:
    builder: Builder of a corpus, which need not exist.
    num_decoded: Number of evenly spaced clips of each split to decode; -1: all.

  Returns:
    {split: result}.

  Raises:
    UserError: The annotations are invalid, or splits do not have their official sizes.
  """
  with tempfile.TemporaryDirectory() as folder:
    plan = builder.plan(epath.Path(folder))
    return {split: _check_split(builder, plan, split, num_decoded) for split in plan.counts}


def _check_split(builder: CorpusBuilder, plan: Plan, split: str, num_decoded: int) -> SplitCheck:
  total = plan.counts[split]
  result, spec = SplitCheck(total), builder.record_spec()
  sample = np.arange(total) if num_decoded < 0 else np.linspace(0, total - 1, min(num_decoded, total)).astype(int)
  sampled = set(sample.tolist())
  progress = ProgressReporter(total, f"clips of split {split}")
  with spec.decode_process() as decoder:
    for index, item in enumerate(_items(plan, split)):
      for field in ("descriptions", "subtitle", "caption"):
        result.texts[field] += bool(getattr(item, field))
      if not video_exists(item):
        result.missing += 1
        result.skipped.append(SkippedClip(item.id, "missing", item.video))
      elif index in sampled:
        result.decoded += 1
        record = clip_record(item, spec, decoder, result.texts)
        if isinstance(record, SkippedClip):
          result.skipped.append(dataclasses.replace(record, name=item.id))
      progress.update(index + 1)
  return result


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
    for clip in result.skipped[:_LISTED]:
      lines.append(printable(f"{split}: {clip.name}: {clip.reason.replace('_', ' ')}: {clip.detail}"))
    if len(result.skipped) > _LISTED:
      lines.append(f"{split}: and {len(result.skipped) - _LISTED} more")
  return "\n".join(lines)


def check_limits(builder: CorpusBuilder, results: dict[str, SplitCheck]) -> None:
  """Checks results against `max_skipped` and `max_missing_text`.

  Raises:
    UserError: A build would fail.
  """
  limit = builder.options.max_skipped
  over = {split: result for split, result in results.items() if result.skipped_fraction > limit}
  if over:
    fractions = ", ".join(f"{result.skipped_fraction:.1%} of split {split!r}" for split, result in over.items())
    raise UserError(
      f"a build would skip {fractions}, more than {limit:.1%}; repair these files, or raise --max_skipped"
    )
  limit = builder.options.max_missing_text
  for split, result in results.items():
    for key in MISSING_TEXT_KEYS:
      if result.texts[key] > limit * result.decoded:
        field = key.removeprefix("lacking_")
        raise UserError(
          f"split {split!r}: {result.texts[key]} of {result.decoded} decoded clips have no {field}, and a build accepts"
          f" {limit:.1%}. Check that the file of {field}s belongs to these clips, or raise --max_missing_text"
        )
