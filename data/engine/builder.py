"""Builders of corpora that are made from files: what `data/NAME` adds is how the owner's annotations become items.

    annotations -> plan (items in shards) -> Beam: one shard after another -> records, coverage, TFDS metadata

Everything unfinished stands in VERSION.building beside the corpus, so that a build goes on where it was stopped.
"""

from __future__ import annotations

import abc
import dataclasses
import hashlib
import json
import math
import os
import re
import shlex
import tempfile
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

import tensorflow_datasets as tfds
from etils import epath
from tensorflow_datasets.core import constants, dataset_builder

from clipvip_jax.utils.errors import UserError
from data.engine import coverage, records, runner, storage, text_lookup
from data.engine.coverage import Coverage
from data.engine.frame_extraction import FrameSettings, decoder_by_name
from data.engine.items import Item
from data.engine.plan import Plan, write_plan
from data.engine.shards import Account, Recipe
from data.engine.work import BuildWork

_DAY = 86_400  # seconds
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.=+-]{0,99}")  # of a configuration: it is a folder's name


@dataclasses.dataclass(eq=False, kw_only=True)
class CorpusConfig(tfds.core.BuilderConfig):
  """What a corpus holds.

  splits: their names. sizes: clips that the official splits have. fps, frames, short_side, jpeg_quality and min_frames:
  see media.Stored. decoder: see media.decoder.
  """

  splits: tuple[str, ...] = ("train",)
  sizes: dict[str, int] = dataclasses.field(default_factory=dict)
  fps: float = 0.0
  frames: int = 0
  short_side: int = 256
  jpeg_quality: int = 92
  min_frames: int = 2
  decoder: str = "pyav"

  NOT_CONTENT: ClassVar[tuple[str, ...]] = ("sizes",)

  def stored(self) -> FrameSettings:
    """Raises UserError for what no corpus can be."""
    if not _NAME.fullmatch(self.name):
      raise UserError(f"a configuration is named by at most 100 letters, digits and _.=+-, got {self.name!r}")
    stored = FrameSettings(self.fps, self.frames, self.short_side, self.jpeg_quality, self.min_frames)
    stored.check()
    decoder_by_name(self.decoder)
    return stored

  def settings(self) -> dict[str, Any]:
    """What decides the records' content besides the owner's files."""
    general = {field.name for field in dataclasses.fields(tfds.core.BuilderConfig)} | {*self.NOT_CONTENT}
    own = sorted({field.name for field in dataclasses.fields(self)} - general)
    return json.loads(json.dumps({name: getattr(self, name) for name in own}))


@dataclasses.dataclass(frozen=True, kw_only=True)
class BuildOptions:
  """How a corpus is built; nothing of it changes a record.

  source: folder with the owner's files; "": DATA_DIR/downloads/manual/NAME. check_sizes: whether splits must have their
  official sizes. decode_seconds: after which a clip counts as undecodable. max_left_out: share of a split's clips that
  may be missing or bad. max_lacking: share that may lack a text which was looked up. clips_per_shard: 0: chosen by the
  size of the split.
  """

  source: str = ""
  check_sizes: bool = True
  decode_seconds: float = 120.0
  max_left_out: float = 0.05
  max_lacking: float = 0.5
  clips_per_shard: int = 0

  def check(self) -> None:
    """Raises UserError for numbers that mean nothing."""
    coverage.check_share("max_left_out", self.max_left_out)
    coverage.check_share("max_lacking", self.max_lacking)
    if not 0 < self.decode_seconds <= _DAY:
      raise UserError(f"decode_seconds={self.decode_seconds} must be above 0, at most {_DAY}")
    if self.clips_per_shard < 0:
      raise UserError(f"clips_per_shard={self.clips_per_shard} must be at least 0")


class CorpusBuilder(dataset_builder.FileReaderBuilder, abc.ABC):
  """A corpus from files. A subclass names its VERSION, BUILDER_CONFIGS and `items`."""

  VERSION = tfds.core.Version("1.0.0")
  EXTRA: ClassVar[tuple[str, ...]] = ()  # text fields that its records have besides the common ones
  SIZE_HINT = ""  # what people miss whose splits have not the official sizes
  builder_config: CorpusConfig

  def __init__(self, *, options: BuildOptions | None = None, **kwargs: Any):
    """Takes what TFDS builders take. Raises UserError where other records stand under this config's name."""
    self.options = options or BuildOptions()
    self.options.check()
    self.annotations = ""
    if isinstance(config := kwargs.get("config"), CorpusConfig):
      config.stored()
    try:
      super().__init__(**kwargs)
      self.builder_config.stored()
      self._check_settings()
    except (KeyError, ValueError, AssertionError) as error:  # what TFDS makes of damaged files
      raise UserError(
        f"the corpus {self.name} in {kwargs.get('data_dir')} cannot be read ({type(error).__name__}: {error}); delete"
        " its folder and build again"
      ) from error

  def _check_settings(self) -> None:
    stored, wanted = self.info.metadata["settings"], self._settings()  # of the disk, where the records exist
    if stored != wanted:
      changed = sorted(key for key in {*stored, *wanted} if stored.get(key) != wanted.get(key))
      raise UserError(
        f"{self.data_path}: these records were built with other settings ({', '.join(changed)})."
        " Delete this folder, or build under another name or data_dir."
      )

  @abc.abstractmethod
  def items(self, source: epath.Path) -> Iterator[Item]:
    """Every clip that the owner's files name, in a fixed order.

    Raises:
      UserError: a file is absent or broken; the place is named.
    """

  def lookups(self, source: epath.Path) -> dict[str, str]:
    """Texts found by a clip's id while building: {"subtitle" | "caption": LMDB, or a JSON file that fits in memory}."""
    del source
    return {}

  @property
  def source(self) -> epath.Path:
    """The folder with the owner's files."""
    if not self.options.source:
      return epath.Path(self.data_dir_root) / "downloads" / "manual" / self.name
    return storage.absolute(self.options.source)

  @property
  def building(self) -> epath.Path:
    """Where the unfinished corpus stands."""
    return epath.Path(self.data_dir_root) / self.name / self.builder_config.name / f"{self.version}.building"

  def plan(self, folder: epath.Path) -> Plan:
    """Writes the items down in `folder`. Raises UserError for bad annotations and splits of another size.

    `annotations` is then a digest of all that they say, wherever they lie.
    """
    if not self.source.exists():
      raise UserError(f"{self.source}: no such file or folder; name what holds {self.name} with --source=PATH")
    digest = hashlib.sha256()
    plan = write_plan(_noted(self.items(self.source), self.source, digest), self.builder_config.splits, folder)
    self.annotations = digest.hexdigest()
    wrong = [
      f"{split} has {plan.counts[split]} clips, officially {size}"
      for split, size in self.builder_config.sizes.items()
      if plan.counts.get(split, size) != size
    ]
    if wrong and self.options.check_sizes:
      raise UserError(
        f"{self.source}: these are not the official splits of {self.name}/{self.builder_config.name}"
        f" ({'; '.join(wrong)}). Use the owner's files{self.SIZE_HINT}, or accept these:"
        f" {self.command(check_sizes=False)}"
      )
    return plan

  def check_annotations(self) -> None:
    """Refuses a corpus that stands there already and was built from other annotations. Raises UserError."""
    with tempfile.TemporaryDirectory() as folder:
      self.plan(epath.Path(folder))
    before, now = self.info.metadata.get("lookups"), self._lookups()
    if self.info.metadata.get("annotations") != self.annotations or (before is not None and before != now):
      raise UserError(
        f"{self.data_path} was built from other annotations than {self.source}: give this corpus another name, with"
        " --name=NAME, or delete that folder"
      )

  def _lookups(self) -> dict[str, str]:
    """{"subtitle" or "caption": what the file that these are looked up in holds}."""
    return {field: text_lookup.lookup_identity(path) for field, path in self.lookups(self.source).items()}

  def recipe(self) -> Recipe:
    """How items become records."""
    config = self.builder_config
    return Recipe(config.stored(), config.decoder, self.options.decode_seconds, self.lookups(self.source), self.EXTRA)

  def _settings(self) -> dict[str, Any]:
    return {"version": str(self.VERSION), **self.builder_config.settings()}

  def _info(self) -> tfds.core.DatasetInfo:
    return self.dataset_info_from_configs(
      features=records.record_features(self.EXTRA),
      metadata=tfds.core.MetadataDict(pixels=self.builder_config.stored().describe(), settings=self._settings()),
      disable_shuffling=True,  # records stand in the order of the items; training shuffles
    )

  def download_and_prepare(self, **kwargs: Any) -> None:
    """TFDS' own, by one process at a time. Raises UserError for whatever keeps a corpus from being built."""
    building = self.building
    try:
      building.mkdir(parents=True, exist_ok=True)
      with storage.file_lock(building / "lock") as free:
        if not free:
          raise UserError(f"{building}: another process is building this corpus; wait for it, or stop it first")
        super().download_and_prepare(**kwargs)
        if self.is_prepared():  # also where a build was ended just before it had cleaned up
          building.rmtree()
    except OSError as error:
      raise storage.disk_error(building, error) from error

  def _download_and_prepare(self, dl_manager: Any, download_config: Any = None) -> None:
    del dl_manager
    self._build(self.building, download_config)

  def _build(self, building: epath.Path, download_config: Any) -> None:
    building.mkdir(parents=True, exist_ok=True)
    self._remove_orphans()
    clips, shards = self.options.clips_per_shard, building / "shards"
    plan, recipe = self.plan(building / "plan"), self.recipe()
    lookups = {field: (path, text_lookup.lookup_state(path)) for field, path in recipe.lookups.items()}
    settings = json.dumps([self._settings(), lookups], sort_keys=True)
    runner.run_build(plan, recipe, BuildWork(shards, settings, clips), download_config)
    left_out = building / coverage.LEFT_OUT_FILE
    account, written = gather(plan, shards, clips, left_out)
    self._check(account, left_out)
    self.info.set_splits(tfds.core.SplitDict([self._split(split, shards, written[split]) for split in plan.counts]))
    storage.link_or_copy(left_out, epath.Path(self.data_path) / coverage.LEFT_OUT_FILE)
    self.info.metadata["coverage"] = account.as_metadata()
    self.info.metadata["annotations"] = self.annotations
    self.info.metadata["lookups"] = self._lookups()

  def _check(self, account: Coverage, left_out: epath.Path) -> None:
    for split, counts in account.as_metadata().items():
      share = math.ceil(100 * sum(counts[reason] for reason in coverage.REASONS) / counts["expected"]) / 100
      account.check(split, self.options.max_left_out, left_out, self.command(max_left_out=share))
      account.check_lacking(split, self.options.max_lacking, self.command(max_lacking=1.0))

  def command(self, **changes: Any) -> str:
    """What to run to build this corpus with other options than now: {name of one of BuildOptions: value}."""
    options = dataclasses.replace(self.options, **changes)
    given = [
      f"--{field.name}={str(value).lower() if isinstance(value, bool) else value}"
      for field in dataclasses.fields(options)
      if (value := getattr(options, field.name)) != field.default
    ]
    folder = f"--data_dir={self.data_dir_root}"
    return shlex.join(
      ["python", "-m", "clipvip_jax.data_tool", "build", self.name, *self._config_flags(), folder, *given]
    )

  def _config_flags(self) -> list[str]:
    """How the command line names this configuration, which may differ from those of the class."""
    config, known = self.builder_config, self.builder_configs
    if config.name in known:
      return [f"--config={config.name}"]
    # What cannot be set on the command line must be the base's own.
    alike = [name for name, one in known.items() if (one.splits, one.sizes) == (config.splits, config.sizes)] or known
    base = known[max(alike, key=lambda name: (config.name.startswith(name), len(name)))]
    before, now = base.settings(), config.settings()
    changed = [f"--{name}={value}" for name, value in now.items() if before.get(name) != value]
    return [f"--config={base.name}", f"--name={config.name}", *changed]

  def _split(self, split: str, shards: epath.Path, written: list[tuple[str, Account]]) -> tfds.core.SplitInfo:
    """Moves the split's shards in place, those without a record aside."""
    full = [(name, account) for name, account in written if account.records]
    if not full:
      raise UserError(
        f"split {split!r}: none of its clips can be used; see {coverage.LEFT_OUT_FILE} in {self.building}"
      )
    template = self._get_filename_template(split_name=split)
    for index, (name, _) in enumerate(full):
      target = template.sharded_filepath(shard_index=index, num_shards=len(full))
      storage.link_or_copy(shards / f"{name}.array_record", epath.Path(target))
    return tfds.core.SplitInfo(
      name=split,
      shard_lengths=[account.records for _, account in full],
      num_bytes=sum(account.bytes for _, account in full),
      filename_template=template,
    )

  def _remove_orphans(self) -> None:
    """Folders that builds which were killed at the very end have left behind."""
    for folder in storage.matching(self.building.parent, f"{constants.INCOMPLETE_PREFIX}*_{self.version}"):
      if folder != epath.Path(self.data_path):
        folder.rmtree()

  def _log_download_bytes(self) -> None:
    """TFDS' own words are of downloads; `engine` says what is built."""

  _log_download_done = _log_download_bytes


def _noted(items: Iterable[Item], source: epath.Path, digest: Any) -> Iterator[Item]:
  """The items as they are; adds what they say to a digest, videos as they lie relative to the source."""
  root = os.fspath(source if source.is_dir() else source.parent) + "/"
  for item in items:
    digest.update(
      dataclasses.replace(item, video=item.video.removeprefix(root)).to_json().encode(errors="surrogatepass")
    )
    yield item


def gather(
  plan: Plan, shards: epath.Path, clips: int, left_out: epath.Path
) -> tuple[Coverage, dict[str, list[tuple[str, Account]]]]:
  """(coverage, {split: [(name of a shard, its account)]}) of finished shards; writes who was left out, and why."""
  total = Coverage()
  written: dict[str, list[tuple[str, Account]]] = {split: [] for split in plan.counts}
  for split, count in plan.counts.items():
    total.expect(split, count)
  with storage.atomic_path(left_out) as temporary, temporary.open("w", encoding="utf-8") as file:
    for shard in plan.shards(clips):
      account = Account.read(shards / f"{shard.name}.json")
      if account is None:
        raise UserError(f"{shards / shard.name}: the shard is gone; build again")
      total.found(shard.split, account.records)
      total.lacking(shard.split, account.lacking)
      total.left_out(shard.split, account.left_out)
      file.writelines(coverage.line(shard.split, clip) for clip in account.left_out)
      written[shard.split].append((shard.name, dataclasses.replace(account, left_out=[])))
  return total, written
