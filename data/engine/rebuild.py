"""Finds the shards of a complete corpus whose videos have changed since, and restores the others for a new build."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable

from etils import epath

from clipvip_jax.data.engine import build_files
from clipvip_jax.data.engine.clip_record import video_exists
from clipvip_jax.data.engine.plan import Plan, Shard
from clipvip_jax.data.engine.shards import ShardReport, digest_videos, records_path, report_path
from clipvip_jax.data.engine.work import BuildWork
from clipvip_jax.utils.log import log

SHARDS_FILE = "shards.json"  # beside the records


@dataclasses.dataclass(frozen=True)
class BuiltShards:
  """How a complete corpus was built.

  Attributes:
    clips_per_shard: as in `BuildWork`.
    reports: {name of a shard: its report}, in order.
  """

  clips_per_shard: int
  reports: dict[str, ShardReport]

  @classmethod
  def read(cls, path: epath.Path) -> BuiltShards | None:
    """Reads the file; returns None if it does not exist or is corrupt."""
    try:
      fields = json.loads(path.read_text(encoding="utf-8"))
      reports = {name: ShardReport.from_fields(report) for name, report in fields["reports"].items()}
      return cls(int(fields["clips_per_shard"]), reports)
    except (FileNotFoundError, ValueError, TypeError, KeyError, AttributeError):
      return None


def write_reports(path: epath.Path, plan: Plan, work: BuildWork) -> None:
  """Writes the reports of all shards of a build to one file."""
  reports = {}
  for shard in plan.shards(work.clips_per_shard):
    report = ShardReport.read(report_path(work.folder, shard))
    assert report is not None, shard.name  # `assemble.collect_reports` has read it
    reports[shard.name] = dataclasses.asdict(dataclasses.replace(report, digest=""))  # it depends on the folder
  path.write_text(json.dumps({"clips_per_shard": work.clips_per_shard, "reports": reports}), encoding="utf-8")


def changed_shards(plan: Plan, built: BuiltShards) -> list[str]:
  """Returns the names of the shards with a video that was changed or added since they were built.

  Shards with a clip whose video was removed are not among them: building them again would lose that clip. Neither are
  those of a corpus all of whose videos have new modification times and the old sizes: they were copied.
  """
  shards = {shard.name: shard for shard in plan.shards(built.clips_per_shard)}
  digests = {name: digest_videos(shard, plan) for name, shard in shards.items()}
  changed = [name for name, report in built.reports.items() if digests[name][0] != report.video_state]
  resized = [name for name in changed if digests[name][1] != built.reports[name].video_sizes]
  with_records = [name for name, report in built.reports.items() if report.num_records]
  if len(with_records) > 1 and {*changed} >= {*with_records} and not resized:
    log.info("all videos have new modification times, but the sizes of the build: assuming that they were copied")
    return []
  lost = [name for name in changed if _has_lost_clips(shards[name], plan, built.reports[name])]
  if lost:
    log.info("videos of %d shards no longer exist; these shards are kept as they are", len(lost))
  return [name for name in changed if name not in {*lost}]


def _has_lost_clips(shard: Shard, plan: Plan, report: ShardReport) -> bool:
  missing = {clip.name for clip in report.skipped if clip.reason == "missing"}
  return any(item.id not in missing and not video_exists(item) for item in plan.items(shard))


def restore_shards(
  plan: Plan,
  built: BuiltShards,
  changed: list[str],
  work: BuildWork,
  record_file: Callable[[str, int, int], epath.Path],
) -> None:
  """Links all shards but `changed` from a complete corpus into the working folder, as completed.

  Args:
    plan: the items.
    built: how the corpus was built.
    changed: names of the shards to omit.
    work: the working folder.
    record_file: returns a file of the corpus, of a split, an index and the number of files.
  """
  build_files.make_folder(work.folder)
  for split in plan.counts:
    shards = [shard for shard in plan.shards(built.clips_per_shard) if shard.split == split]
    shards = [shard for shard in shards if built.reports[shard.name].num_records]  # others have no file
    for index, shard in enumerate(shards):
      build_files.delete(report_path(work.folder, shard))
      build_files.delete(records_path(work.folder, shard))
      if shard.name not in changed:
        build_files.link_or_copy(record_file(split, index, len(shards)), records_path(work.folder, shard))
        state, sizes = digest_videos(shard, plan)
        report = dataclasses.replace(
          built.reports[shard.name], digest=work.digest(shard), video_state=state, video_sizes=sizes
        )
        report.write(report_path(work.folder, shard))
