"""Runs the shards of a build on Apache Beam: on the cores of this machine, or on Spark, Flink or Dataflow.

Only descriptions of shards pass through Beam; workers write the records. Memory therefore does not grow with the
corpus on any runner. Builds are resumable: completed shards are not built again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
from typing import TYPE_CHECKING

from clipvip_jax.data.engine import build_files
from clipvip_jax.data.engine.clip_record import RecordSpec
from clipvip_jax.data.engine.plan import Plan, Shard
from clipvip_jax.data.engine.shards import is_up_to_date, is_written
from clipvip_jax.data.engine.work import BuildWork
from clipvip_jax.utils import storage, transfers
from clipvip_jax.utils.atomic_write import disk_error_reason
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import log
from clipvip_jax.utils.progress import ProgressReporter

if TYPE_CHECKING:
  import tensorflow_datasets as tfds
  from apache_beam.options.pipeline_options import PipelineOptions

_CLIPS_PER_PROCESS = 400  # fewer clips do not repay the start of a process


def run_build(plan: Plan, spec: RecordSpec, work: BuildWork, config: tfds.download.DownloadConfig) -> None:
  """Builds all shards that are not up to date.

  Args:
    plan: the items.
    spec: how items become records.
    work: the working folder.
    config: configuration of TFDS; `beam_runner` and `beam_options` are used.

  Raises:
    UserError: a shard could not be built. Completed shards are kept.
  """
  build_files.make_folder(work.folder)
  build_files.delete(work.error_file)
  shards = [shard for shard in plan.shards(work.clips_per_shard) if not is_up_to_date(shard, plan, work)]
  if not shards:
    return
  num_clips = sum(shard.count for shard in shards)
  log.info("building %d clips in %d shards in %s", num_clips, len(shards), work.folder)
  options = config.beam_options or local_options(min(available_cores(), num_clips // _CLIPS_PER_PROCESS))
  is_local = config.beam_runner is None
  if not is_local and storage.is_remote(work.folder):  # workers have no access to this machine's files
    transfers.upload_folder(pathlib.Path(plan.folder), work.folder.parent / "plan")
    plan = dataclasses.replace(plan, folder=work.folder.parent / "plan")
  try:
    from clipvip_jax.data.engine import beam_job  # lazy: importing Beam takes seconds

    with (
      ProgressReporter(len(shards), "shards").polling(_CountWritten(shards, work)),
      build_files.redirect_stderr(work.worker_log) if is_local else contextlib.nullcontext(),
    ):
      beam_job.run(shards, plan, spec, work, config.beam_runner, options)
  except UserError:
    raise
  except Exception as error:  # Beam and its runners raise anything, for example if a cluster is unreachable
    if disk_error_reason(error):  # also that of a worker which could not even save the error
      raise build_files.disk_error(work.folder, error) from error
    lines = str(error).strip().splitlines() or [type(error).__name__]
    raise UserError(
      f"the build failed: {lines[-1]}. See {work.worker_log}. Completed shards are kept; run the build again to resume"
    ) from error
  if transfers.exists(work.error_file):
    raise UserError(json.loads(build_files.read_text(work.error_file))["error"])
  work.worker_log.unlink(missing_ok=True)


def local_options(workers: int) -> PipelineOptions:
  """Returns Beam options for this machine.

  Args:
    workers: number of worker processes; 0 and 1: none besides this process.
  """
  from apache_beam.options.pipeline_options import PipelineOptions

  if workers <= 1:
    return PipelineOptions([], direct_running_mode="in_memory")
  return PipelineOptions([], direct_num_workers=workers, direct_running_mode="multi_processing")


def parse_options(runner: str, flags: str, workers: int | None) -> PipelineOptions | None:
  """Returns Beam options for the flags of a command.

  Args:
    runner: name of a Beam runner; "": this machine.
    flags: options of the runner, "NAME=VALUE,NAME".
    workers: number of worker processes on this machine; None: chosen by the number of clips.

  Raises:
    UserError: `flags` are set without a runner.
  """
  from apache_beam.options.pipeline_options import PipelineOptions

  if runner:
    return PipelineOptions([f"--runner={runner}", *(f"--{flag}" for flag in flags.split(",") if flag)])
  if flags:
    raise UserError(f"--beam_options={flags} needs --runner; to build on this machine use --workers=N")
  return None if workers is None else local_options(workers)


def available_cores() -> int:
  """Returns the number of cores that this process may use."""
  return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _CountWritten:
  """Counts completed shards; does not read the reports of completed shards again."""

  def __init__(self, shards: list[Shard], work: BuildWork):
    self._total, self._waiting, self._work = len(shards), shards, work

  def __call__(self) -> int:
    self._waiting = [shard for shard in self._waiting if not is_written(shard, self._work)]
    return self._total - len(self._waiting)
