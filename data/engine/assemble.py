"""Assembles completed shards into the splits of a TFDS data set."""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib

import tensorflow_datasets as tfds
from etils import epath
from tensorflow_datasets.core import constants

from clipvip_jax.data.engine import build_files, coverage
from clipvip_jax.data.engine.coverage import Coverage
from clipvip_jax.data.engine.plan import Plan
from clipvip_jax.data.engine.shards import ShardReport, records_path, report_path
from clipvip_jax.data.engine.work import BuildWork
from clipvip_jax.utils import file_digests
from clipvip_jax.utils.errors import UserError


@dataclasses.dataclass(frozen=True)
class WrittenShard:
  """A completed shard: path, number of records, their size in bytes and their digest."""

  path: epath.Path
  num_records: int
  num_bytes: int
  digest: str


def collect_reports(
  plan: Plan, work: BuildWork, skipped_file: epath.Path
) -> tuple[Coverage, dict[str, list[WrittenShard]]]:
  """Sums the reports of all shards, and writes the list of skipped clips.

  Args:
    plan: the items.
    work: the working folder.
    skipped_file: the list to write.

  Returns:
    The coverage, and {split: shards in order}.

  Raises:
    UserError: a shard is missing.
  """
  total = Coverage()
  written: dict[str, list[WrittenShard]] = {split: [] for split in plan.counts}
  for split, count in plan.counts.items():
    total.add_split(split, count)
  with build_files.atomic_path(skipped_file) as temporary, temporary.open("w", encoding="utf-8") as file:
    for shard in plan.shards(work.clips_per_shard):
      report = ShardReport.read(report_path(work.folder, shard))
      if report is None:
        raise UserError(f"{report_path(work.folder, shard)}: the shard is missing; run the build again")
      total.add_found(shard.split, report.num_records)
      total.add_counts(shard.split, report.counts)
      total.add_skipped(shard.split, report.skipped)
      file.writelines(coverage.skipped_line(shard.split, clip) for clip in report.skipped)
      path = records_path(work.folder, shard)
      written[shard.split].append(WrittenShard(path, report.num_records, report.num_bytes, report.records))
  return total, written


def link_split(
  split: str, shards: list[WrittenShard], template: tfds.core.ShardedFileTemplate, folder: epath.Path
) -> tfds.core.SplitInfo:
  """Links the shards of a split into the data set, without those that have no records.

  Args:
    split: name of the split.
    shards: its shards in order.
    template: names of the data set's files.
    folder: folder of the data set's records.
  """
  shards = [shard for shard in shards if shard.num_records]
  for index, shard in enumerate(shards):
    target = template.sharded_filepath(shard_index=index, num_shards=len(shards))
    build_files.link_or_copy(shard.path, folder / epath.Path(target).name)
  return tfds.core.SplitInfo(
    name=split,
    shard_lengths=[shard.num_records for shard in shards],
    num_bytes=sum(shard.num_bytes for shard in shards),
    filename_template=template,
  )


def digest_records(shards: dict[str, list[WrittenShard]]) -> dict[str, str]:
  """Returns a digest of the records of each split, which other pixels of the same size change; other shards do not."""
  sums = {split: sum(int(shard.digest, 16) for shard in written) for split, written in shards.items()}
  return {split: hashlib.sha256(f"{total:x}".encode()).hexdigest() for split, total in sums.items()}


def write_digests(folder: pathlib.Path) -> None:
  """Writes digests of the metadata, compared when the corpus is opened. ArrayRecord files have their own."""
  if not (folder / file_digests.NAME).exists():
    file_digests.write_digests(folder, lambda name: ".array_record" not in name)


def remove_orphans(folder: epath.Path, version: str, current: epath.Path) -> None:
  """Removes temporary folders of TFDS left behind by killed builds.

  Args:
    folder: the folder of a configuration.
    version: version of the corpus.
    current: the temporary folder of this build.
  """
  for orphan in build_files.glob(folder, f"{constants.INCOMPLETE_PREFIX}*_{version}"):
    if orphan != current:
      orphan.rmtree()
