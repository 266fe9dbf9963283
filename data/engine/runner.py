"""Runs the shards of a build on Apache Beam: on this machine's cores, or on Spark, Flink or Dataflow.

Only the shards' numbers travel through Beam; each worker writes the shards that it is given. So memory does not grow
with the corpus on any runner, and a shard that is there is not made again.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from typing import TYPE_CHECKING, Any

from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import log
from clipvip_jax.utils.progress import format_duration
from data.engine import storage
from data.engine.plan import Plan, Shard
from data.engine.shards import Recipe, is_done, is_written
from data.engine.work import BuildWork

if TYPE_CHECKING:
  from apache_beam.options.pipeline_options import PipelineOptions

_WORTH = 400  # clips for which it is worth while to start a process
_LOOK = 1.0  # seconds between two looks at what is finished
_SAY = 10.0  # seconds between two lines


def run_build(plan: Plan, recipe: Recipe, work: BuildWork, download_config: Any) -> None:
  """Makes every shard that is not done.

  Args:
    plan: the items.
    recipe: how they become records.
    work: where to.
    download_config: TFDS' own; its `beam_runner` and `beam_options` are used.

  Raises:
    UserError: a shard could not be made; those that are finished are kept.
  """
  work.folder.mkdir(parents=True, exist_ok=True)
  work.stop.unlink(missing_ok=True)
  todo = [shard for shard in plan.shards(work.clips) if not is_done(shard, plan, work.folder, work.digest(shard))]
  if not todo:
    return
  log.info("%d clips in %d shards to build in %s", sum(shard.count for shard in todo), len(todo), work.folder)
  finished = threading.Event()
  watcher = threading.Thread(target=_watch, args=(todo, work, finished), daemon=True)
  watcher.start()
  try:
    from data.engine import beam_job  # late: who has nothing to build need not wait for Beam

    fitting = min(cores(), sum(shard.count for shard in todo) // _WORTH)
    options = download_config.beam_options or local_options(fitting)
    with storage.redirect_stderr(work.chatter) if download_config.beam_runner is None else contextlib.nullcontext():
      beam_job.run(todo, plan, recipe, work, download_config.beam_runner, options)
  except UserError:
    raise
  except Exception as error:  # Beam's own, of any kind: a cluster is not there
    cause = str(error).strip().splitlines()[-1:] or [type(error).__name__]
    raise UserError(
      f"the build has stopped: {cause[0]}. {work.chatter} may say more. Finished shards are kept: build again"
    ) from error
  finally:
    finished.set()
    watcher.join()
  if work.stop.exists():
    raise UserError(json.loads(work.stop.read_text())["error"])


def local_options(workers: int) -> PipelineOptions:
  """Beam's options for so many processes on this machine; up to 1: none besides this one."""
  from apache_beam.options.pipeline_options import PipelineOptions

  if workers <= 1:
    return PipelineOptions([], direct_running_mode="in_memory")
  return PipelineOptions([], direct_num_workers=workers, direct_running_mode="multi_processing")


def options(runner: str, texts: str, workers: int | None) -> PipelineOptions | None:
  """Beam's options for a command line.

  Args:
    runner: of Beam; "": this machine.
    texts: "NAME=VALUE,NAME" for a runner.
    workers: processes on this machine; None: chosen by the size of the work.

  Raises:
    UserError: options for a runner that is this machine.
  """
  from apache_beam.options.pipeline_options import PipelineOptions

  if not runner:
    if texts:
      raise UserError(f"--beam_options={texts} are for a --runner; on this machine give --workers=N")
    return None if workers is None else local_options(workers)
  flags = [f"--{text}" for text in texts.split(",") if text]
  return PipelineOptions([f"--runner={runner}", *flags])


def cores() -> int:
  """The cores that this process may use, where the system can say so."""
  return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _watch(todo: list[Shard], work: BuildWork, finished: threading.Event) -> None:
  """Says how far the build is and how long it will take."""
  started = said = time.monotonic()
  waiting = list(todo)
  while not finished.wait(_LOOK):
    if time.monotonic() - said < _SAY:
      continue
    said = time.monotonic()
    waiting = [shard for shard in waiting if not is_written(shard, work.folder, work.digest(shard))]
    done = len(todo) - len(waiting)
    left = f"{format_duration((said - started) / done * len(waiting))} left" if done else "the first are on their way"
    log.info("%d of %d shards | %s", done, len(todo), left)
