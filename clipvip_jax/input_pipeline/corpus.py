"""Opens a corpus that a builder of `data/` has prepared, or says how to prepare it."""

import collections
import dataclasses
import functools
import importlib
import importlib.util
import pathlib
import pkgutil
import sys
from collections.abc import Sequence
from typing import Any

from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import log

# How many queries a clip of an evaluated split may have: exactly one; or any number from one, of which each is asked on
# its own and a video is answered by its best.
PROTOCOLS = ("single", "multi")


@dataclasses.dataclass(frozen=True)
class Texts:
  """What a split's clips say besides their frames, in the records' order. Letters: V clips, N queries.

  Attributes:
    ids: [V].
    queries: [N], those of the first clip first; a clip has none, one or several.
    labels: [N], the clip of each query.
    captions: [V], of the middle frames; a clip without one has an empty list.
    twins: [V], the clip that differs in motion or order only; -1: none.
  """

  ids: list[str]
  queries: list[str]
  labels: list[int]
  captions: list[list[str]]
  twins: list[int]


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
    """What was done to pixels, and how many clips were expected and found."""
    return dict(self._builder.info.metadata or {})

  def coverage(self, split: str) -> dict[str, int]:
    """{"expected", "missing"}: clips that the split should hold, and those of them that it does not.

    A corpus that keeps no account expects what it has.
    """
    count = self.metadata.get("coverage", {}).get(split) or {}
    expected = int(count.get("expected", self._builder.info.splits[split].num_examples))
    return {"expected": expected, "missing": expected - int(count.get("found", expected))}

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
      query: the field that is searched with; "" for none.
      caption: the field that describes the middle frame; "" for none.

    Raises:
      UserError: a record without such a field.
    """
    source = self.source(split)
    self.check_fields(split, (query, caption))
    found = Texts([], [], [], [], [])
    twins = []
    for i in range(len(source)):  # one record at a time, since each brings its frames along
      record = source[i]
      queries = texts(record, query)
      found.ids.append(text(record, "id"))
      found.queries.extend(queries)
      found.labels.extend([i] * len(queries))
      found.captions.append(texts(record, caption))
      twins.append(text(record, "twin") if "twin" in record else "")
    position = {name: i for i, name in enumerate(found.ids)}
    found.twins.extend(position.get(twin, -1) for twin in twins)
    return found

  def check_queries(
    self, split: str, query: str, caption: str, protocol: str = "single", flag: str = "--config.evaluate.protocol"
  ) -> None:
    """Refuses a split that cannot be searched as the protocol asks.

    Args:
      split: name of a split.
      query: the field that is searched with.
      caption: the field that describes the middle frame; "" for none.
      protocol: see PROTOCOLS.
      flag: what sets it, for messages.

    Raises:
      UserError: no such split or field, no records, or records without a query; the first of them are named. Or see
        `check_protocol`.
    """
    texts = self.texts(split, query, caption)
    if not texts.ids:
      raise UserError(f"{self.name}, split {split}, holds no records")
    asked = set(texts.labels)
    silent = [name for i, name in enumerate(texts.ids) if i not in asked]
    if silent:
      raise UserError(f"{self.name}, split {split}: {len(silent)} clips have no {query!r} to search with: {silent[:5]}")
    check_protocol(protocol, texts.ids, texts.labels, f"{self.name}, split {split}", flag)

  def identity(self) -> dict[str, Any]:
    """What a run must find unchanged when it goes on: name, settings of the build, and records of each split."""
    records = {name: split.num_examples for name, split in self._builder.info.splits.items()}
    return {"name": self.name, "settings": self.metadata.get("settings", {}), "records": records}

  def check_fields(self, split: str, fields: Sequence[str]) -> None:
    """Refuses a split whose records lack a field of text, or of several; "" names none and passes.

    Raises:
      UserError: names the field and those that there are.
    """
    known = [name for name, feature in self._builder.info.features.items() if _is_text(feature)]
    for field in fields:
      if field and field not in known:
        raise UserError(f"{self.name}, split {split}: records have no text {field!r}; they have: {', '.join(known)}")


def _is_text(feature: Any) -> bool:
  """Whether a feature of TFDS is a text or a list of texts."""
  import tensorflow_datasets as tfds

  return isinstance(getattr(feature, "feature", feature), tfds.features.Text)


def check_protocol(protocol: str, ids: Sequence[str], labels: Sequence[int], where: str, flag: str) -> None:
  """Refuses queries that are not as the protocol says.

  Args:
    protocol: see PROTOCOLS.
    ids: of the clips.
    labels: the clip of each query.
    where: the split, for messages.
    flag: what sets the protocol, likewise.

  Raises:
    UserError: an unknown protocol, or clips with several queries where each may have one: how many, and the first.
  """
  if protocol not in PROTOCOLS:
    raise UserError(f"{flag.removeprefix('--config.')}={protocol!r} is unknown; allowed: {', '.join(PROTOCOLS)}")
  queries = collections.Counter(labels)
  several = [i for i in range(len(ids)) if queries[i] > 1]
  if several and protocol == "single":
    raise UserError(
      f"{where}: {len(several)} of {len(ids)} clips have several queries, first {ids[several[0]]!r} with"
      f" {queries[several[0]]}; {flag}=multi asks each on its own and lets a video be answered by its best"
    )


def text(record: dict[str, Any], field: str) -> str:
  """A field of one text as a string: TFDS gives bytes."""
  value = record[field]
  return value.decode("utf-8") if isinstance(value, bytes) else value


def texts(record: dict[str, Any], field: str) -> list[str]:
  """The texts of a field that holds one or several, without those that are empty; none for the field ""."""
  if not field:
    return []
  value = record[field]
  values = [value] if isinstance(value, bytes | str) else value
  found = [item.decode("utf-8") if isinstance(item, bytes) else item for item in values]
  return [item for item in found if item.strip()]


def builder_class(name: str, section: str = "data") -> Any:
  """The builder in `data/NAME/NAME_dataset_builder.py`."""
  module = f"data.{name}.{name}_dataset_builder"
  try:
    return importlib.import_module(module).Builder
  except ModuleNotFoundError as error:
    if not module.startswith(error.name or "?"):
      raise
    package = importlib.import_module("data")
    known = [
      info.name
      for info in pkgutil.iter_modules(package.__path__)
      if importlib.util.find_spec(f"data.{info.name}.{info.name}_dataset_builder")
    ]
    raise UserError(
      f"{_field(section, 'name')}={name!r} is no corpus in data/; there are: {', '.join(known)}. "
      "CONTRIBUTING.md says how to add one"
    ) from None


def _field(section: str, field: str) -> str:
  """How a message names a field of a section; of no section: of a command that takes a corpus as an option."""
  return f"{section}.{field}" if section else {"name": "corpus", "config": "configuration"}[field]


def _how(section: str) -> tuple[str, str]:
  """What names another folder of corpora, and what builds one that generates itself there."""
  if section:
    return f"--config.{section}.data_dir=DIR", "--config.data.prepare=True"
  return "--data_dir=DIR", "--config.data.prepare=True of python -m clipvip_jax.main"


def _build(builder: Any) -> None:
  import tensorflow_datasets as tfds

  log.info("building the corpus %s in %s", builder.info.full_name, builder.data_dir_root)
  if not sys.stderr.isatty():
    tfds.disable_progress_bar()  # it would fill a log file
  builder.download_and_prepare(file_format="array_record")
  coverage = (builder.info.metadata or {}).get("coverage", {})
  missing = {split: count["expected"] - count["found"] for split, count in coverage.items()}
  if any(missing.values()):
    log.warning("clips were left out (%s); %s says why", missing, builder.data_path)


def _on_disk(root: pathlib.Path) -> dict[str, pathlib.Path]:
  """Configuration -> folder of its newest version, of all that lie in DATA_DIR/NAME, `root`."""
  import tensorflow_datasets as tfds

  found = {}
  for folder in sorted(root.iterdir()) if root.is_dir() else []:
    versions = [path for path in folder.iterdir() if (path / "features.json").exists()] if folder.is_dir() else []
    versions = [path for path in versions if tfds.core.Version.is_valid(path.name)]
    if versions:
      found[folder.name] = max(versions, key=lambda path: tfds.core.Version(path.name))
  return found


def _generating_builder(builder_type: Any, config: Any, section: str) -> Any:
  """The builder of a corpus that makes itself from its configuration; it refuses records of other settings."""
  builder = builder_type(config=config.config or None, data_dir=config.data_dir or None, file_format="array_record")
  if not builder.is_prepared():
    if not config.get("prepare", False):
      folder, prepare = _how(section)
      raise UserError(
        f"corpus {builder.info.full_name} is not in {builder.data_dir_root}; name the folder that holds it with "
        f"{folder}, or build it there with {prepare}"
      )
    _build(builder)
  return builder


def open_corpus(config: Any, section: str = "data") -> Corpus:
  """The corpus that `config` names, as `config.data` does: `name`, `config`, `data_dir` and, where given, `prepare`.

  A configuration that its builder generates is built where it is missing and `prepare` allows it. Any other is opened
  where it lies, DATA_DIR/NAME/CONFIG/VERSION in its newest version, whether or not the builder's code knows its name.

  Args:
    config: a section of the configuration.
    section: its path there, for messages; "": a command's options, --data_dir among them.

  Raises:
    UserError: no such corpus or configuration, or it is not there: says what there is and how to build it.
  """
  import tensorflow_datasets as tfds

  if "://" in str(config.data_dir):
    folder, _ = _how(section)
    raise UserError(f"{folder.removesuffix('DIR')}{config.data_dir}: corpora are read from the file system; mount it")
  builder_type = builder_class(config.name, section)
  registered = list(builder_type.builder_configs)
  generates = getattr(builder_type, "SYNTHETIC", False)
  if generates and (not config.config or config.config in registered):
    # Opened again by its folder, so that worker processes do not import the builder's code.
    return _opened(_generating_builder(builder_type, config, section).data_path)
  root = pathlib.Path(config.data_dir or tfds.core.constants.DATA_DIR).expanduser()
  command = f"python -m clipvip_jax.data_tool build {config.name} --data_dir={root}"
  if config.get("prepare", False):
    how = f"allowed: {', '.join(registered)}" if generates else f"{config.name} is made from files: {command}"
    raise UserError(f"{section}.config={config.config!r} is nothing that {section}.prepare=True can build; {how}")
  there = _on_disk(root / config.name)
  name = config.config or (registered[0] if registered else "")
  if name not in there:
    folder, prepare = _how(section)
    how = f"build one that it knows there with {prepare}" if generates else f"build it: {command}"
    raise UserError(
      f"{_field(section, 'config')}={name!r} of corpus {config.name} is not in {root}; there: "
      f"{', '.join(there) or 'none'}; known to its builder: {', '.join(registered) or 'none'}. "
      f"Name the folder with {folder}, or {how}"
    )
  return _opened(there[name])


def _opened(folder: Any) -> Corpus:
  import tensorflow_datasets as tfds

  try:
    return Corpus(tfds.builder_from_directory(folder))
  except Exception as error:  # what TFDS makes of a damaged file is of any kind
    said = (str(error).strip().splitlines() or [""])[0]
    raise UserError(
      f"{folder} cannot be read ({type(error).__name__}: {said}); delete it and build it again"
    ) from error
