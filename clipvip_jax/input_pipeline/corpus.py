"""A built corpus: random access to its records, the texts of a split, and its metadata."""

import collections
import dataclasses
import functools
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from clipvip_jax.input_pipeline.record_text import Record, record_text, record_texts
from clipvip_jax.input_pipeline.remote_records import RecordStore
from clipvip_jax.input_pipeline.split_records import SplitRecords
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import log, printable

if TYPE_CHECKING:
  import tensorflow_datasets as tfds

# Queries per clip of an evaluation split: "single" requires exactly one. "multi" allows any number; each query is
# evaluated separately, and a video is matched by its best query.
PROTOCOLS = ("single", "multi")

_NUM_NAMED = 5  # clips that an error message lists
_MAX_EXAMINED = 1024  # records whose texts are counted: a record includes its frames
_KEY_FIELDS = ("id", "twin")  # text fields that name clips


@dataclasses.dataclass(frozen=True)
class SplitTexts:
  """The texts of a split, in the order of its records. Letters: V clips, N queries.

  Attributes:
    ids: [V].
    queries: [N], the first clip's first; a clip has none, one or several.
    labels: [N], the clip of each query.
    captions: [V], of the middle frames; empty lists where missing.
    twins: [V], the clip that differs only in its motion or order (a temporal hard negative); -1 for none.
  """

  ids: list[str]
  queries: list[str]
  labels: list[int]
  captions: list[list[str]]
  twins: list[int]


class Corpus:
  """A prepared TFDS dataset with random access to its records."""

  def __init__(self, builder: "tfds.core.DatasetBuilder", store: RecordStore | None = None):
    """Wraps a builder.

    Args:
      builder: of the corpus, or of its metadata.
      store: where the records are, if it is an object store.
    """
    self._builder, self._store = builder, store
    self._records: dict[str, Sequence[Record]] = {}

  @property
  def name(self) -> str:
    """Corpus, configuration and version, as in `moving_shapes/demo/1.1.0`."""
    return self._builder.info.full_name

  @property
  def metadata(self) -> dict[str, Any]:
    """The build's settings and coverage."""
    return dict(self._builder.info.metadata or {})

  @property
  def folder(self) -> str:
    """Its folder: a local path or an address."""
    return self._store.folder if self._store else os.fspath(self._builder.data_path)

  @property
  def splits(self) -> tuple[str, ...]:
    """Names of the splits."""
    return tuple(self._builder.info.splits)

  def coverage(self, split: str) -> dict[str, int]:
    """Returns {"expected": clips in the corpus' annotations, "missing": those that the build skipped}.

    Without coverage metadata, nothing is missing.
    """
    counts = self.metadata.get("coverage", {}).get(split) or {}
    expected = int(counts.get("expected", self._builder.info.splits[split].num_examples))
    return {"expected": expected, "missing": expected - int(counts.get("found", expected))}

  def records(self, split: str) -> Sequence[Record]:
    """Returns the records of a split, which are read on access; see `SplitRecords` for errors of reading.

    Raises:
      UserError: the corpus has no such split.
    """
    if split not in self._builder.info.splits:
      raise UserError(f"{self.name} has no split {split!r}; choose one of: {', '.join(self._builder.info.splits)}")
    if split not in self._records:
      info = self._builder.info.splits[split]
      files = [(os.fspath(file.filename), file.examples_in_shard) for file in info.file_instructions]
      source = self._builder.as_data_source(split)
      if self._store:
        files = [(f"{self._store.folder}/{os.path.basename(name)}", count) for name, count in files]  # noqa: PTH119
        source.data_source = self._store.source(files)
      self._records[split] = SplitRecords(source, f"{self.name}, split {split}", files)
    return self._records[split]

  @functools.cache  # noqa: B019  # a corpus lives as long as the run
  def texts(self, split: str, query: str = "description", caption: str = "caption") -> SplitTexts:
    """Reads all texts of a split.

    Args:
      split: name of a split.
      query: field with the queries; "" for none.
      caption: field with the captions of the middle frames; "" for none.

    Raises:
      UserError: the corpus has no such split or field.
    """
    records = self.records(split)
    self.check_fields(split, (query, caption))
    texts = SplitTexts([], [], [], [], [])
    twin_ids = []
    for i in range(len(records)):  # one at a time: a record includes its frames
      record = records[i]
      queries = record_texts(record, query)
      texts.ids.append(record_text(record, "id"))
      texts.queries.extend(queries)
      texts.labels.extend([i] * len(queries))
      texts.captions.append(record_texts(record, caption))
      twin_ids.append(record_text(record, "twin") if "twin" in record else "")
    index = {clip_id: i for i, clip_id in enumerate(texts.ids)}
    texts.twins.extend(index.get(twin, -1) for twin in twin_ids)
    return texts

  def check_fields(self, split: str, fields: Sequence[str]) -> None:
    """Checks that the records of a split have text fields; ignores the field "".

    Raises:
      UserError: a field is missing.
    """
    text_fields = self._text_fields()
    for field in fields:
      if field and field not in text_fields:
        raise UserError(
          f"{self.name}, split {split}: records have no text field {field!r}; choose one of: {', '.join(text_fields)}"
        )

  def _text_fields(self) -> list[str]:
    return sorted(name for name, feature in self._builder.info.features.items() if _is_text(feature))

  def count_texts(self, split: str) -> tuple[int, dict[str, int]]:
    """Counts the records that have a text, by text field, in a whole split or in evenly spaced records of a large one.

    Returns:
      (number of records examined, {text field: how many of them have a text that is not blank}).

    Raises:
      UserError: the corpus has no such split.
    """
    records = self.records(split)
    indices = np.unique(np.linspace(0, len(records) - 1, min(len(records), _MAX_EXAMINED), dtype=np.int64))
    counts = dict.fromkeys((field for field in self._text_fields() if field not in _KEY_FIELDS), 0)
    for index in indices.tolist():
      record = records[index]
      for field in counts:
        counts[field] += bool(record_texts(record, field))
    return len(indices), counts

  def check_queries(
    self, split: str, query: str, caption: str, protocol: str = "single", flag: str = "--config.evaluate.protocol"
  ) -> None:
    """Checks that a split can be evaluated: it has records and queries, and as many per clip as the protocol allows.

    Clips without a query are distractors: they are ranked, and a warning counts them.

    Args:
      split: name of a split.
      query: field with the queries.
      caption: field with the captions of the middle frames; "" for none.
      protocol: see PROTOCOLS.
      flag: option that sets the protocol, for error messages.

    Raises:
      UserError: the split or a field does not exist, the split is empty, no clip has a query, or see
        `check_protocol`.
    """
    texts = self.texts(split, query, caption)
    where = f"{self.name}, split {split}"
    if not texts.ids:
      raise UserError(f"{where}: the split has no records; build the corpus again or choose another split")
    labels = set(texts.labels)
    if not labels:
      raise UserError(f"{where}: no clip has a {query!r} to use as query; choose another field or split")
    if without_query := [clip_id for i, clip_id in enumerate(texts.ids) if i not in labels]:
      log.warning(
        "%s: %d of %d clips have no %r to use as query, first %s; they are distractors",
        *(where, len(without_query), len(texts.ids), query, printable(", ".join(without_query[:_NUM_NAMED]))),
      )
    check_protocol(protocol, texts.ids, texts.labels, where, flag)

  def identity(self) -> dict[str, Any]:
    """Returns what must not change when a run resumes: name, settings of the build, number of records, content.

    The content is described by digests of the annotations and, unless an earlier version built the corpus, of the
    records of each split, and by the size of each split.
    """
    splits = self._builder.info.splits
    return {
      "name": self.name,
      "settings": self.metadata.get("settings", {}),
      "records": {name: split.num_examples for name, split in splits.items()},
      "content": {
        "num_bytes": {name: split.num_bytes for name, split in splits.items()},
        **{name: self.metadata[name] for name in ("annotations", "lookups", "records") if self.metadata.get(name)},
      },
    }


def check_protocol(protocol: str, ids: Sequence[str], labels: Sequence[int], where: str, flag: str) -> None:
  """Checks the number of queries per clip.

  Args:
    protocol: see PROTOCOLS.
    ids: of the clips.
    labels: the clip of each query.
    where: the split, for error messages.
    flag: option that sets the protocol, for error messages.

  Raises:
    UserError: the protocol is unknown, or it is "single" and clips have several queries.
  """
  if protocol not in PROTOCOLS:
    raise UserError(f"{flag.removeprefix('--config.')}={protocol!r} is unknown; choose one of: {', '.join(PROTOCOLS)}")
  counts = collections.Counter(labels)
  several = [i for i in range(len(ids)) if counts[i] > 1]
  if several and protocol == "single":
    raise UserError(
      f"{where}: {len(several)} of {len(ids)} clips have several queries, first {ids[several[0]]!r} with"
      f" {counts[several[0]]}; {flag}=multi evaluates each query separately and matches a video by its best query"
    )


def _is_text(feature: Any) -> bool:
  """Returns whether a TFDS feature is a text or a list of texts."""
  import tensorflow_datasets as tfds

  return isinstance(getattr(feature, "feature", feature), tfds.features.Text)
