"""The Apache Beam job of a build. Each shard is one element, written by the worker that receives it."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import sys
import threading
from collections.abc import Iterator

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.runner import PipelineRunner

from clipvip_jax.data.engine import build_files
from clipvip_jax.data.engine.clip_record import RecordSpec
from clipvip_jax.data.engine.decode_process import DecodeProcess
from clipvip_jax.data.engine.plan import Plan, Shard
from clipvip_jax.data.engine.shards import build_shard
from clipvip_jax.data.engine.work import BuildWork
from clipvip_jax.utils import log, transfers
from clipvip_jax.utils.errors import UserError

_POLL_SECONDS = 0.2


def run(
  shards: list[Shard],
  plan: Plan,
  spec: RecordSpec,
  work: BuildWork,
  runner: PipelineRunner | str | None,
  options: PipelineOptions,
) -> None:
  """Builds shards. Returns when all are completed, or after a UserError in one, saved to `work.error_file`.

  Args:
    shards: the shards to build.
    plan: the items.
    spec: how items become records.
    work: the working folder.
    runner: Beam runner; None: this machine.
    options: Beam options.

  Raises:
    UserError: a worker process of this machine was killed; Beam would wait for it forever.
    Exception: any error of Beam.
  """
  logging.getLogger("apache_beam").setLevel(logging.ERROR)
  finished, worker_died, errors = threading.Event(), threading.Event(), list[BaseException]()

  pipeline = beam.Pipeline(runner=runner or "FnApiRunner", options=options)

  def run_pipeline() -> None:
    try:
      with pipeline:
        elements = pipeline | "shards" >> beam.Create(shards, reshuffle=True)
        _ = elements | "build" >> beam.ParDo(_BuildShard(plan, spec, work))
    except BaseException as error:
      errors.append(error)
    finished.set()

  with _detect_worker_death(worker_died), contextlib.ExitStack() as stack:
    # Beam deletes it when the pipeline ends, which it does not where this thread raises.
    stack.callback(shutil.rmtree, pipeline.local_tempdir, ignore_errors=True)
    # In a thread, so that this one can react to Ctrl-C and to the death of workers.
    threading.Thread(target=run_pipeline, daemon=True).start()
    while not finished.wait(_POLL_SECONDS):
      if worker_died.is_set():
        raise UserError(
          "a worker process of the build was killed, probably because memory ran out; run the build again with fewer"
          " --workers"
        )
  if errors:
    raise errors[0]


@contextlib.contextmanager
def _detect_worker_death(worker_died: threading.Event) -> Iterator[None]:
  """Sets an event when a Beam worker process dies: the thread that waits for it raises, and Beam ignores that."""
  original = threading.excepthook

  def hook(arguments: threading.ExceptHookArgs) -> None:
    if "Worker subprocess exited" in str(arguments.exc_value):
      worker_died.set()
    else:
      original(arguments)

  threading.excepthook = hook
  try:
    yield
  finally:
    threading.excepthook = original


class _BuildShard(beam.DoFn):
  """Builds shards; each worker has one decoding process."""

  def __init__(self, plan: Plan, spec: RecordSpec, work: BuildWork):
    self._plan, self._spec, self._work = plan, spec, work
    self._decoder: DecodeProcess | None = None
    self._parent = os.getpid()

  def setup(self) -> None:
    """Called by Beam once per worker."""
    if os.getpid() != self._parent and sys.stderr is not None:
      sys.stderr = log.LossyStream(sys.stderr)  # Beam prints an error before it reports it, and waits if it cannot
    self._decoder = self._spec.decode_process()

  def process(self, shard: Shard) -> Iterator[None]:
    """Builds a shard. A UserError is saved, not raised: Beam would retry the shard."""
    assert self._decoder is not None
    if not transfers.exists(self._work.error_file):
      try:
        build_shard(shard, self._plan, self._spec, self._work, self._decoder)
      except UserError as error:
        with build_files.atomic_path(self._work.error_file) as temporary:
          temporary.write_text(json.dumps({"error": str(error)}))
    yield from ()

  def teardown(self) -> None:
    """Called by Beam when a worker ends normally."""
    if self._decoder is not None:
      self._decoder.close()
