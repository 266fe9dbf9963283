"""Opens a corpus that a builder of `data/` has prepared, or says how to prepare it."""

import dataclasses
import functools
import importlib
import pkgutil
import sys
from collections.abc import Sequence
from typing import Any

from clipvip_jax.errors import UserError
from clipvip_jax.log import log


@dataclasses.dataclass(frozen=True)
class Texts:
  """What a split's records say besides their frames, in the records' order; empty strings where nothing is said."""

  ids: list[str]
  queries: list[str]
  captions: list[str]
  twins: list[int]  # index of the clip that differs in motion or order only; -1: none


class Corpus:
  """A prepared TFDS data set with random access to its records."""

  def __init__(self, builder: Any):
    self._builder = builder
    self._sources: dict[str, Any] = {}

  @property
  def name(self) -> str:
    """`moving_shapes/demo/1.1.0`: corpus, configuration, version."""
    return self._builder.info.full_name

  @property
  def metadata(self) -> dict[str, Any]:
    """What was done to pixels, and how many clips were found and bad."""
    return dict(self._builder.info.metadata or {})

  def source(self, split: str) -> Sequence[dict[str, Any]]:
    """The records of a split, read on access.

    Raises:
      UserError: the corpus has no such split.
    """
    if split not in self._builder.info.splits:
      raise UserError(f"{self.name} has no split {split!r}; it has: {', '.join(self._builder.info.splits)}")
    if split not in self._sources:
      self._sources[split] = self._builder.as_data_source(split)
    return self._sources[split]

  @functools.cache  # noqa: B019  # a corpus lives as long as the run
  def texts(self, split: str, query: str = "description", caption: str = "caption") -> Texts:
    """Reads all of a split's texts.

    Args:
      split: name of a split.
      query: the field that is searched with.
      caption: the field that describes the middle frame.

    Raises:
      UserError: a record without such a field.
    """
    source = self.source(split)
    self.check_fields(split, (query, caption))
    rows = []
    for i in range(len(source)):  # one record at a time, since each brings its frames along
      record = source[i]
      twin = text(record, "twin") if "twin" in record else ""
      rows.append((text(record, "id"), text(record, query), text(record, caption), twin))
    ids, queries, captions, twins = (list(column) for column in zip(*rows, strict=True)) if rows else ([],) * 4
    position = {name: i for i, name in enumerate(ids)}
    return Texts(ids, queries, captions, [position.get(twin, -1) for twin in twins])

  def check_queries(self, split: str, query: str, caption: str) -> None:
    """Refuses a split that cannot be searched.

    Raises:
      UserError: no such split or field, no records, or records without a query; the first of them are named.
    """
    texts = self.texts(split, query, caption)
    if not texts.ids:
      raise UserError(f"{self.name}, split {split}, holds no records")
    silent = [name for name, words in zip(texts.ids, texts.queries, strict=True) if not words.strip()]
    if silent:
      raise UserError(f"{self.name}, split {split}: {len(silent)} clips have no {query!r} to search with: {silent[:5]}")

  def identity(self) -> dict[str, Any]:
    """What a run must find unchanged when it goes on: name, settings of the build, and records of each split."""
    records = {name: split.num_examples for name, split in self._builder.info.splits.items()}
    return {"name": self.name, "settings": self.metadata.get("settings", {}), "records": records}

  def check_fields(self, split: str, fields: Sequence[str]) -> None:
    """Refuses a split whose records lack a field.

    Raises:
      UserError: names the field and those that there are.
    """
    for field in fields:
      if field not in self._builder.info.features:
        known = ", ".join(self._builder.info.features)
        raise UserError(f"{self.name}, split {split}: records have no field {field!r}; they have: {known}")


def text(record: dict[str, Any], field: str) -> str:
  """A text field of a record as a string: TFDS gives bytes."""
  value = record[field]
  return value.decode("utf-8") if isinstance(value, bytes) else value


def _builder_class(name: str) -> Any:
  """The builder in `data/NAME/NAME_dataset_builder.py`."""
  module = f"data.{name}.{name}_dataset_builder"
  try:
    return importlib.import_module(module).Builder
  except ModuleNotFoundError as error:
    if not module.startswith(error.name or "?"):
      raise
    package = importlib.import_module("data")
    known = [info.name for info in pkgutil.iter_modules(package.__path__) if info.ispkg]
    raise UserError(
      f"data.name={name!r} is no corpus in data/; there are: {', '.join(known)}. CONTRIBUTING.md says how to add one"
    ) from None


def _build(builder: Any) -> None:
  import tensorflow_datasets as tfds

  log.info("building the corpus %s in %s", builder.info.full_name, builder.data_dir_root)
  if not sys.stderr.isatty():
    tfds.disable_progress_bar()  # it would fill a log file
  builder.download_and_prepare(file_format="array_record")
  coverage = (builder.info.metadata or {}).get("coverage", {})
  bad = {split: len(count["bad"]) for split, count in coverage.items() if count["bad"]}
  if bad:
    log.warning("bad clips were left out (%s); %s names each with its reason", bad, builder.data_path)


def open_corpus(config: Any) -> Corpus:
  """The corpus that `config.data` names; built first where it is missing and `prepare` allows it.

  Raises:
    UserError: no such corpus or builder configuration, or it is not there: says how to prepare it.
  """
  builder_class = _builder_class(config.name)
  configs = list(builder_class.builder_configs)
  if config.config and config.config not in configs:
    raise UserError(f"data.config={config.config!r} is unknown to {config.name}; allowed: {', '.join(configs)}")
  builder = builder_class(config=config.config or None, data_dir=config.data_dir or None, file_format="array_record")
  if not builder.is_prepared():
    if not config.prepare:
      raise UserError(
        f"corpus {builder.info.full_name} is not in {builder.data_dir_root}; name the folder that holds it with "
        "--config.data.data_dir=DIR, or build it there with --config.data.prepare=True"
      )
    _build(builder)
  return Corpus(builder)
