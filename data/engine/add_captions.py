"""Adds captions to a built corpus: writes a new edition of it, without decoding.

The edition is another configuration of the corpus, beside the first: DATA_DIR/NAME/EDITION/VERSION. Records change in
their field `caption` alone. Idempotent and resumable: completed files are kept in VERSION.building.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordReader
from etils import epath
from tensorflow_datasets.proto import tf_example_pb2

from clipvip_jax.data.engine import build_files, build_lock, caption_files, rebuild, text_lookup
from clipvip_jax.data.engine.corpus_config import check_name
from clipvip_jax.data.engine.coverage import missing_text_key
from clipvip_jax.data.engine.shards import open_writer
from clipvip_jax.data.engine.text_lookup import Lookup
from clipvip_jax.utils import atomic_write, config_tree, file_digests, storage
from clipvip_jax.utils.errors import UserError, first_line
from clipvip_jax.utils.log import log

FIELD = "caption"
_CHECKED_CLIPS = 1000  # of each split, whose captions are looked up before the edition is written
_INFO_FILE, _METADATA_FILE = "dataset_info.json", "metadata.json"  # of TFDS
_NOT_COPIED = (_INFO_FILE, _METADATA_FILE, file_digests.NAME, rebuild.SHARDS_FILE)  # written, or of the build alone


@dataclasses.dataclass(frozen=True)
class Edition:
  """A new edition of a corpus.

  Attributes:
    source: folder of the corpus.
    target: folder of the edition.
    captions: what each argument of the command stands for; see `caption_files.list_files`.
  """

  source: pathlib.Path
  target: pathlib.Path
  captions: tuple[str, ...]

  @property
  def building(self) -> pathlib.Path:
    """Folder of the incomplete edition."""
    return self.target.with_name(f"{self.target.name}.building")

  def fingerprint(self) -> str:
    """Returns a digest of the captions."""
    parts = [text_lookup.lookup_fingerprint(path) for path in self.captions]
    return parts[0] if len(parts) == 1 else hashlib.sha256("".join(parts).encode()).hexdigest()


def add_captions(source: str | os.PathLike[str], captions: Sequence[str], name: str) -> pathlib.Path:
  """Writes an edition of a corpus with other captions; a clip without one among them keeps its own.

  Args:
    source: folder of the corpus.
    captions: files, folders or patterns, see `caption_files.list_files`.
    name: configuration of the edition; "": that of the corpus with "+captions".

  Returns:
    The folder of the edition.

  Raises:
    UserError: the corpus is not on a local disk or has no captions, no clip has a caption in the files, the edition
      exists with other captions, another process writes it, or the disk is full.
  """
  if storage.is_remote(source):
    raise UserError(f"{source} is not on a local disk; copy the corpus to one, and the edition back")
  builder = tfds.builder_from_directory(source)
  if FIELD not in builder.info.features:
    raise UserError(f"{source}: records have no field {FIELD!r}; build the corpus again")
  folder = pathlib.Path(source)
  name = check_name(name or f"{folder.parent.name}+captions")
  edition = Edition(folder, folder.parent.parent / name / folder.name, tuple(captions))
  if edition.target == edition.source:
    raise UserError(f"--name={name} is the corpus itself; choose another name for the new edition")
  texts = text_lookup.open_lookup(*captions)
  _check_ids(builder, texts, captions)
  if not edition.target.exists():
    with build_lock.locked(epath.Path(edition.building)):
      if not edition.target.exists():  # another process may have written it meanwhile
        _write(builder, edition, texts)
        return edition.target
  _check_existing(edition)
  build_lock.delete_leftovers(epath.Path(edition.building))
  return edition.target


def _check_ids(builder: tfds.core.DatasetBuilder, texts: Lookup, captions: Sequence[str]) -> None:
  """Raises UserError if none of the first clips has a caption."""
  example = ""
  for split, info in builder.info.splits.items():
    for record in _read_records(info.filepaths, _CHECKED_CLIPS):
      example = _text(record, "id")
      if text_lookup.find_text(texts, example, split) is not None:
        return
  own = next(map(caption_files.clip_name, texts), None)
  raise UserError(
    f"{', '.join(captions)}: no caption for any of the first clips; its ids are like {own!r}, those of the corpus like"
    f" {example!r}. Use the captions of these clips"
  )


def _check_existing(edition: Edition) -> None:
  metadata = json.loads((edition.target / _METADATA_FILE).read_text(encoding="utf-8"))
  if metadata.get("lookups", {}).get(FIELD) != edition.fingerprint():
    raise UserError(
      f"{edition.target} was written with other captions; choose another name with --name=NAME, or delete this folder"
    )
  log.info("%s exists and is up to date", edition.target)


def _write(builder: tfds.core.DatasetBuilder, edition: Edition, texts: Lookup) -> None:
  corpus = edition.building / "corpus"
  _discard_others(edition)
  corpus.mkdir(exist_ok=True)
  totals: dict[str, Counter[str]] = {split: Counter() for split in builder.info.splits}
  for split, info in builder.info.splits.items():
    for path in info.filepaths:
      totals[split].update(_write_file(path, corpus, texts, split))
  for path in edition.source.iterdir():
    if path.name not in _NOT_COPIED and ".array_record" not in path.name and not (corpus / path.name).exists():
      build_files.link_or_copy(epath.Path(path), epath.Path(corpus / path.name))
  _write_info(edition, corpus, totals)
  _write_metadata(edition, corpus, builder.info.full_name, totals)
  file_digests.write_digests(corpus, lambda name: ".array_record" not in name)
  edition.target.parent.mkdir(exist_ok=True)
  corpus.rename(edition.target)
  epath.Path(edition.building).rmtree()
  for split, total in totals.items():
    listed = ", ".join(f"{total[key]} {text}" for key, text in _COUNTED.items())
    log.info("%s: %s", split, listed)
  log.info("wrote %s", edition.target)


_COUNTED = {"added": "captions added", "replaced": "replaced", "kept": "kept", "lacking": "clips lacking caption"}


def _discard_others(edition: Edition) -> None:
  """Deletes what an earlier call has written from another corpus or other captions."""
  digests = file_digests.digest_files([edition.source / name for name in (_INFO_FILE, _METADATA_FILE)])
  inputs = {"corpus": digests, "captions": edition.fingerprint()}
  state = edition.building / "inputs.json"
  if not state.exists() or json.loads(state.read_text(encoding="utf-8")) != inputs:
    for path in edition.building.iterdir():
      if path.is_dir():
        epath.Path(path).rmtree()
      elif path.name != "lock":
        path.unlink()
    config_tree.write_json(state, inputs)


def _write_file(path: os.PathLike[str], corpus: pathlib.Path, texts: Lookup, split: str) -> dict[str, int]:
  """Writes the records of a file with their captions, unless that is done. Returns counts, and the size in bytes."""
  target = corpus / pathlib.Path(path).name
  report = corpus.with_name(f"{target.name}.json")
  if report.exists() and target.exists():
    return json.loads(report.read_text(encoding="utf-8"))
  counts = Counter(dict.fromkeys((*_COUNTED, "num_bytes"), 0))
  with atomic_write.atomic_path(target) as temporary, open_writer(temporary) as write:
    for record in _read_records([path]):
      old, new = _text(record, FIELD), text_lookup.find_text(texts, _text(record, "id"), split)
      if new:
        record.features.feature[FIELD].bytes_list.value[:] = [new.encode()]
      counts["lacking" if not (old or new) else "kept" if not new else "replaced" if old else "added"] += 1
      data = record.SerializeToString(deterministic=True)
      counts["num_bytes"] += len(data)
      write(data)
  config_tree.write_json(report, counts)
  return dict(counts)


def _read_records(paths: Sequence[os.PathLike[str]], count: int | None = None) -> Iterator[tf_example_pb2.Example]:
  """Yields the records of files, the first `count` of each. Raises UserError for a corrupt file."""
  for path in paths:
    try:
      with contextlib.closing(ArrayRecordReader(os.fspath(path))) as reader:
        for _ in range(reader.num_records() if count is None else min(count, reader.num_records())):
          yield tf_example_pb2.Example.FromString(reader.read())
    except (RuntimeError, ValueError, IndexError) as error:
      raise UserError(
        f"{path} cannot be read ({first_line(error)}); restore the file, or build the corpus again"
      ) from error


def _text(record: tf_example_pb2.Example, field: str) -> str:
  values = record.features.feature[field].bytes_list.value
  return values[0].decode() if values else ""


def _write_info(edition: Edition, corpus: pathlib.Path, totals: Mapping[str, Counter[str]]) -> None:
  info: dict[str, Any] = json.loads((edition.source / _INFO_FILE).read_text(encoding="utf-8"))
  info["configName"] = edition.target.parent.name
  for split in info["splits"]:
    split["numBytes"] = str(totals[split["name"]]["num_bytes"])
  config_tree.write_json(corpus / _INFO_FILE, info)


def _write_metadata(
  edition: Edition, corpus: pathlib.Path, name: str, totals: Mapping[str, Counter[str]]
) -> None:  # fmt: skip
  path = edition.source / _METADATA_FILE
  metadata: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
  for split, total in totals.items():
    metadata.setdefault("coverage", {}).setdefault(split, {})[missing_text_key(FIELD)] = total["lacking"]
  metadata.pop("records", None)  # digests of the records with other captions
  metadata["edition_of"] = name
  metadata["lookups"] = {**metadata.get("lookups", {}), FIELD: edition.fingerprint()}
  headers = [header for path in edition.captions for header in text_lookup.headers(path)]
  if any(total["kept"] for total in totals.values()):
    headers = [*metadata.get("captions", []), *headers]
  metadata["captions"] = [header for i, header in enumerate(headers) if header not in headers[:i]]
  config_tree.write_json(corpus / _METADATA_FILE, metadata)
