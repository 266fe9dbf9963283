"""Builds the shards of a corpus. Idempotent: a completed shard is not built again.

NAME.array_record holds the records and NAME.json the report. Both are committed atomically, the report last: a shard
without a report is incomplete.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import hashlib
import json
import os
import pathlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from etils import epath

from clipvip_jax.data.engine import build_files
from clipvip_jax.data.engine.clip_record import RecordSpec, clip_record, serialize_record
from clipvip_jax.data.engine.coverage import MISSING_TEXT_KEYS, SkippedClip
from clipvip_jax.data.engine.decode_process import DecodeProcess
from clipvip_jax.data.engine.plan import Plan, Shard
from clipvip_jax.data.engine.work import BuildWork
from clipvip_jax.utils import storage, transfers

# A full disk, an exceeded quota or file size limit.
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclasses.dataclass(frozen=True)
class ShardReport:
  """Result of building a shard.

  Attributes:
    digest: `BuildWork.digest` of the shard's inputs.
    video_state: digest of sizes and modification times of its videos.
    video_sizes: digest of the sizes of its videos.
    num_records: number of records.
    num_bytes: size of the records.
    counts: counts of clips by coverage.MISSING_TEXT_KEYS and by notes on their files, such as "hdr".
    skipped: clips without a record.
    records: digest of the records: sum of their SHA-256, in hexadecimal; "0" in reports of earlier versions.
  """

  digest: str
  video_state: str
  video_sizes: str
  num_records: int
  num_bytes: int
  counts: dict[str, int]
  skipped: list[SkippedClip]
  records: str = "0"

  @classmethod
  def read(cls, path: epath.Path) -> ShardReport | None:
    """Reads a report; returns None if it does not exist or is corrupt."""
    try:
      return cls.from_fields(json.loads(build_files.read_text(path)))
    except (FileNotFoundError, ValueError, TypeError, KeyError):
      return None

  @classmethod
  def from_fields(cls, fields: dict[str, Any]) -> ShardReport:
    """Parses `dataclasses.asdict` of a report. Raises TypeError or KeyError for other fields."""
    return cls(**{**fields, "skipped": [SkippedClip(**clip) for clip in fields["skipped"]]})

  def write(self, path: epath.Path) -> None:
    """Writes the report atomically."""
    with build_files.atomic_path(path) as temporary:
      temporary.write_text(json.dumps(dataclasses.asdict(self)), encoding="utf-8")


def report_path(folder: epath.Path, shard: Shard) -> epath.Path:
  """Returns the path of a shard's report."""
  return folder / f"{shard.name}.json"


def records_path(folder: epath.Path, shard: Shard) -> epath.Path:
  """Returns the path of a shard's records."""
  return folder / f"{shard.name}.array_record"


def is_written(shard: Shard, work: BuildWork) -> bool:
  """Returns whether the shard was completed from the same inputs."""
  return _matching_report(shard, work) is not None


def is_up_to_date(shard: Shard, plan: Plan, work: BuildWork) -> bool:
  """Returns whether the shard is completed, its videos are unchanged since, and no clip is to be tried again."""
  report = _matching_report(shard, work)
  if report is None or any(clip.retry for clip in report.skipped):
    return False
  return report.video_state == digest_videos(shard, plan)[0]


def _matching_report(shard: Shard, work: BuildWork) -> ShardReport | None:
  report = ShardReport.read(report_path(work.folder, shard))
  complete = (
    report is not None and report.digest == work.digest(shard) and transfers.exists(records_path(work.folder, shard))
  )
  return report if complete else None


def digest_videos(shard: Shard, plan: Plan) -> tuple[str, str]:
  """Returns a digest of the local videos' sizes and modification times, and one of the sizes alone.

  Remote videos are assumed not to change.
  """
  state, sizes = hashlib.sha256(), hashlib.sha256()
  for item in plan.items(shard):
    if not storage.is_remote(item.video):
      numbers = build_files.file_state(build_files.find_video(item.video))
      state.update(f"{numbers}\n".encode())
      sizes.update(f"{numbers[::2]}\n".encode())
  return state.hexdigest(), sizes.hexdigest()


def build_shard(shard: Shard, plan: Plan, spec: RecordSpec, work: BuildWork, decoder: DecodeProcess) -> None:
  """Builds a shard in `work.folder` unless it is up to date.

  Args:
    shard: the shard.
    plan: the items.
    spec: how items become records.
    work: the working folder.
    decoder: the decoding process.

  Raises:
    UserError: the disk is full, or a text cannot be read.
  """
  if is_up_to_date(shard, plan, work):
    return
  counts = Counter(dict.fromkeys(MISSING_TEXT_KEYS, 0))
  skipped: list[SkippedClip] = []
  num_records = num_bytes = digest = 0
  try:
    build_files.delete(report_path(work.folder, shard))  # first: a report must never refer to other records
    videos = digest_videos(shard, plan)
    with build_files.atomic_path(records_path(work.folder, shard)) as temporary, open_writer(temporary) as write:
      for item in plan.items(shard):
        record = clip_record(item, spec, decoder, counts)
        if isinstance(record, SkippedClip):
          skipped.append(dataclasses.replace(record, name=item.id, detail=f"{item.video}: {record.detail}"))
          continue
        data = serialize_record(record, spec.extra)
        write(data)
        digest += int.from_bytes(hashlib.sha256(data).digest())
        num_records, num_bytes = num_records + 1, num_bytes + len(data)
    report = ShardReport(work.digest(shard), *videos, num_records, num_bytes, dict(counts), skipped, f"{digest:x}")
    report.write(report_path(work.folder, shard))
  except OSError as error:
    raise build_files.disk_error(work.folder, error) from error


@contextlib.contextmanager
def open_writer(path: pathlib.Path) -> Iterator[Callable[[bytes], None]]:
  """Yields a function that appends a record to a new ArrayRecord file. Raises OSError if the disk is full."""
  from array_record.python.array_record_module import ArrayRecordWriter

  writer = ArrayRecordWriter(os.fspath(path), "group_size:1")
  try:
    yield lambda data: _raise_as_os_error(functools.partial(writer.write, data))
  finally:
    _raise_as_os_error(writer.close)


def _raise_as_os_error(call: Callable[[], Any]) -> None:
  """Converts ArrayRecord's RuntimeError into the OSError that caused it."""
  try:
    call()
  except RuntimeError as error:
    code = next((code for code in _DISK_ERRORS if os.strerror(code) in str(error)), errno.EIO)
    raise OSError(code, str(error)) from error
