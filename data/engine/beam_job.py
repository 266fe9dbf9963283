"""The Beam job of a build: every shard is one element, made where Beam puts it."""

from __future__ import annotations

import contextlib
import json
import logging
import threading
from collections.abc import Iterator
from typing import Any

import apache_beam as beam

from clipvip_jax.utils.errors import UserError
from data.engine import storage
from data.engine.decode_process import DecodeProcess
from data.engine.plan import Plan, Shard
from data.engine.shards import Recipe, build_shard
from data.engine.work import BuildWork


def run(todo: list[Shard], plan: Plan, recipe: Recipe, work: BuildWork, runner: Any, options: Any) -> None:
  """Makes the shards, and returns when all are done or one has failed, which `work.stop` then says.

  Raises:
    UserError: a process of this machine was killed, for which Beam would wait for ever.
    Exception: Beam's own.
  """
  logging.getLogger("apache_beam").setLevel(logging.ERROR)
  ended, lost, errors = threading.Event(), threading.Event(), list[BaseException]()

  def pipeline() -> None:
    try:
      with beam.Pipeline(runner=runner or "FnApiRunner", options=options) as pipeline:
        shards = pipeline | "shards" >> beam.Create(todo, reshuffle=True)
        _ = shards | "build" >> beam.ParDo(_Build(plan, recipe, work))
    except BaseException as error:
      errors.append(error)
    ended.set()

  with _lost_workers(lost):
    # Beside this thread, which is then free for Ctrl-C and for workers that are lost.
    threading.Thread(target=pipeline, daemon=True).start()
    while not ended.wait(_LOOK):
      if lost.is_set():
        raise UserError("a process of the build was killed, mostly for want of memory: try fewer --workers")
  if errors:
    raise errors[0]


_LOOK = 0.2  # seconds between two looks at what has ended


@contextlib.contextmanager
def _lost_workers(lost: threading.Event) -> Iterator[None]:
  """Notes a Beam process that has failed: the thread that waits for it raises, and nobody hears it."""
  before = threading.excepthook

  def heard(arguments: Any) -> None:
    if "Worker subprocess exited" in str(arguments.exc_value):
      lost.set()
    else:
      before(arguments)

  threading.excepthook = heard
  try:
    yield
  finally:
    threading.excepthook = before


class _Build(beam.DoFn):
  """Makes shards; each worker has one decoding process."""

  def __init__(self, plan: Plan, recipe: Recipe, work: BuildWork):
    self._plan, self._recipe, self._work = plan, recipe, work
    self._decoding: DecodeProcess | None = None

  def setup(self) -> None:
    """Beam's, once a worker."""
    self._decoding = self._recipe.decoding()

  def process(self, shard: Shard) -> Iterator[None]:
    """An error of a user's making ends the build, and not by Beam's trying again."""
    assert self._decoding is not None
    if not self._work.stop.exists():
      try:
        build_shard(shard, self._plan, self._recipe, self._work.folder, self._work.digest(shard), self._decoding)
      except UserError as error:
        with storage.atomic_path(self._work.stop) as temporary:
          temporary.write_text(json.dumps({"error": str(error)}))
    yield from ()

  def teardown(self) -> None:
    """Beam's, where a worker ends in peace."""
    if self._decoding is not None:
      self._decoding.close()
