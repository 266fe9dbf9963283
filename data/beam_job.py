"""The Beam job of a build: every shard is one element, made where Beam puts it."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import apache_beam as beam

from clipvip_jax.errors import UserError
from data import places
from data.decoding import Decoding
from data.engine import Work
from data.plan import Plan, Shard
from data.shards import Recipe, build_shard


def run(todo: list[Shard], plan: Plan, recipe: Recipe, work: Work, runner: Any, options: Any) -> None:
  """Makes the shards, and returns when all are done or one has failed, which `work.stop` then says."""
  logging.getLogger("apache_beam").setLevel(logging.ERROR)
  with beam.Pipeline(runner=runner or "FnApiRunner", options=options) as pipeline:
    shards = pipeline | "shards" >> beam.Create(todo, reshuffle=True)
    _ = shards | "build" >> beam.ParDo(_Build(plan, recipe, work))


class _Build(beam.DoFn):
  """Makes shards; each worker has one decoding process."""

  def __init__(self, plan: Plan, recipe: Recipe, work: Work):
    self._plan, self._recipe, self._work = plan, recipe, work
    self._decoding: Decoding | None = None

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
        with places.whole(self._work.stop) as temporary:
          temporary.write_text(json.dumps({"error": str(error)}))
    yield from ()

  def teardown(self) -> None:
    """Beam's, where a worker ends in peace."""
    if self._decoding is not None:
      self._decoding.close()
