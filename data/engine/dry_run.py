"""What a build would meet, found out without writing anything: annotations, files, and a few clips decoded."""

from __future__ import annotations

import collections
import dataclasses
import tempfile
import time
from collections.abc import Callable, Iterator

import numpy as np
from etils import epath

from data.engine.builder import CorpusBuilder
from data.engine.coverage import REASONS, SkippedClip
from data.engine.items import Item
from data.engine.plan import Plan
from data.engine.shards import clip_record, is_there

_SAY = 10.0  # seconds between two lines of progress


@dataclasses.dataclass
class SplitCheck:
  """clips: that the annotations name. missing: how many have no file. decoded: how many were tried, bad ones included.

  texts: {field: clips that have such a text}, and of those decoded {"lacking_...": have none where it is looked up}.
  bad: clips that a build would leave out, the first of each reason first.
  """

  clips: int
  missing: int = 0
  decoded: int = 0
  texts: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
  bad: list[SkippedClip] = dataclasses.field(default_factory=list)

  @property
  def lost(self) -> float:
    """Share of clips that a build would leave out, from those decoded and those missing."""
    reasons = collections.Counter(clip.reason for clip in self.bad)
    undecodable = sum(reasons[reason] for reason in REASONS if reason != "missing")
    there = 1 - self.missing / self.clips
    return self.missing / self.clips + there * (undecodable / self.decoded if self.decoded else 0.0)


def check(builder: CorpusBuilder, decode: int, say: Callable[[str], None]) -> dict[str, SplitCheck]:
  """{split: what was found}.

  Args:
    builder: of a corpus that need not be built.
    decode: clips of each split to decode, evenly spread; 0: none; below 0: all.
    say: gets lines of progress.

  Raises:
    UserError: annotations that cannot be read, splits of another size than the official one.
  """
  with tempfile.TemporaryDirectory() as folder:
    plan = builder.plan(epath.Path(folder))
    return {split: _check_split(builder, plan, split, decode, say) for split in plan.counts}


def _check_split(builder: CorpusBuilder, plan: Plan, split: str, decode: int, say: Callable[[str], None]) -> SplitCheck:
  total = plan.counts[split]
  found, recipe = SplitCheck(total), builder.recipe()
  tried = set(range(total) if decode < 0 else np.linspace(0, total - 1, min(decode, total)).astype(int).tolist())
  said = time.monotonic()
  with recipe.decoding() as decoding:
    for index, item in enumerate(_items(plan, split)):
      for field in ("descriptions", "subtitle", "caption"):
        found.texts[field] += bool(getattr(item, field))
      if not is_there(item):
        found.missing += 1
        found.bad.append(SkippedClip(item.id, "missing", item.video))
      elif index in tried:
        found.decoded += 1
        record = clip_record(item, recipe, decoding, found.texts)
        if isinstance(record, SkippedClip):
          found.bad.append(dataclasses.replace(record, name=item.id))
      if time.monotonic() - said > _SAY:
        said = time.monotonic()
        say(f"{split}: {index + 1} of {total} clips looked at")
  return found


def _items(plan: Plan, split: str) -> Iterator[Item]:
  for shard in plan.shards():
    if shard.split == split:
      yield from plan.items(shard)
