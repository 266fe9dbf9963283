"""Base class of corpus builders. A corpus in `data/NAME` only defines how annotations become items.

    annotations -> plan (items in shards) -> Beam: one shard after another -> records, coverage, TFDS metadata

Builds are resumable: intermediate files are kept in VERSION.building beside the corpus until it is committed.
"""

from __future__ import annotations

import abc
import dataclasses
import hashlib
import json
import os
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any, ClassVar

import tensorflow_datasets as tfds
from etils import epath
from tensorflow_datasets.core import dataset_builder

from clipvip_jax.data.engine import assemble, build_files, build_lock, coverage, rebuild, records, runner, text_lookup
from clipvip_jax.data.engine.clip_record import RecordSpec
from clipvip_jax.data.engine.corpus_config import BuildOptions, CorpusConfig
from clipvip_jax.data.engine.corpus_mirror import CorpusMirror
from clipvip_jax.data.engine.coverage import Coverage
from clipvip_jax.data.engine.items import Item
from clipvip_jax.data.engine.plan import Plan, tee_items, write_plan
from clipvip_jax.data.engine.work import BuildWork
from clipvip_jax.input_pipeline import remote_corpus
from clipvip_jax.input_pipeline.corpus_errors import metadata_error
from clipvip_jax.utils import storage, transfers
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import log


class CorpusBuilder(dataset_builder.FileReaderBuilder, abc.ABC):
  """Builds a corpus from files. A subclass defines VERSION, BUILDER_CONFIGS and `items`."""

  VERSION = tfds.core.Version("1.0.0")
  EXTRA_FIELDS: ClassVar[tuple[str, ...]] = ()  # text fields that the corpus adds to records
  SIZE_HINT = ""  # inserted in the error for splits that do not have their official sizes
  builder_config: CorpusConfig

  def __init__(self, *, options: BuildOptions | None = None, **kwargs: Any):
    """Initialises the builder.

    Args:
      options: options of the build.
      **kwargs: arguments of TFDS builders, such as `config` and `data_dir`.

    Raises:
      UserError: the configuration is invalid, or the corpus exists and is corrupt or has other settings.
    """
    self.options = options or BuildOptions()
    self._plan: Plan | None = None
    self.options.check()
    if isinstance(config := kwargs.get("config"), CorpusConfig):
      config.frame_settings()
    self._mirror: CorpusMirror | None = None
    if storage.is_remote(data_dir := os.fspath(kwargs.get("data_dir") or "")):
      name = getattr(config, "name", config or next(iter(self.builder_configs)))
      self._mirror = CorpusMirror(data_dir, f"{self.name}/{name}/{self.VERSION}")
      kwargs["data_dir"] = os.fspath(self._mirror.local)
    try:
      super().__init__(**kwargs)
      self.builder_config.frame_settings()
      self._check_settings()
    except UserError:
      raise
    except Exception as error:
      raise metadata_error(f"the corpus {self.name} in {data_dir}", error) from error

  @abc.abstractmethod
  def items(self, raw_dir: epath.Path) -> Iterator[Item]:
    """Yields all clips of the annotations in a fixed order.

    Args:
      raw_dir: folder of the downloaded files.

    Raises:
      UserError: a file is missing or invalid; the message has the location.
    """

  def lookups(self, raw_dir: epath.Path) -> dict[str, str]:
    """Returns files of texts that are looked up by clip id.

    Args:
      raw_dir: folder of the downloaded files.

    Returns:
      {"subtitle" or "caption": path of an LMDB, or of a JSON file that fits in memory}.
    """
    del raw_dir
    return {}

  @property
  def raw_dir(self) -> epath.Path:
    """Folder of the downloaded files."""
    if not self.options.raw_dir:
      return self._root / "downloads" / "manual" / self.name
    return storage.absolute(self.options.raw_dir)

  @property
  def folder(self) -> epath.Path:
    """Folder of the complete corpus."""
    return self._root / self._subfolder

  @property
  def build_dir(self) -> epath.Path:
    """Folder of the incomplete corpus."""
    return self._root / f"{self._subfolder}.building"

  @property
  def _root(self) -> epath.Path:
    """The dataset directory."""
    return self._mirror.root if self._mirror else epath.Path(self.data_dir_root)

  @property
  def _subfolder(self) -> str:
    return f"{self.name}/{self.builder_config.name}/{self.version}"

  @property
  def _plan_folder(self) -> epath.Path:
    return epath.Path(self._mirror.local / "plan") if self._mirror else self.build_dir / "plan"

  def plan(self, folder: epath.Path) -> Plan:
    """Writes the items of all splits to `folder`.

    Raises:
      UserError: annotations are missing or invalid, or splits do not have their official sizes.
    """
    raw_dir = self.raw_dir
    if not transfers.exists(raw_dir):
      raise UserError(f"{raw_dir}: no such file or folder; set --raw_dir=PATH to the files of {self.name}")
    digest = hashlib.sha256()
    items = self.items(raw_dir)
    if self.options.captions:
      items = text_lookup.check_lookups(items, {"caption": self._all_lookups()["caption"]})
    plan = write_plan(tee_items(items, raw_dir, digest.update), self.builder_config.splits, folder)
    wrong_sizes = [
      f"{split} has {plan.counts[split]} clips, officially {size}"
      for split, size in self.builder_config.sizes.items()
      if plan.counts.get(split, size) != size
    ]
    if wrong_sizes and self.options.check_sizes:
      raise UserError(
        f"{raw_dir}: the splits of {self.name}/{self.builder_config.name} do not have their official sizes"
        f" ({'; '.join(wrong_sizes)}). Use the original files{self.SIZE_HINT}, or accept these with"
        " --check_sizes=false"
      )
    return dataclasses.replace(plan, annotations_digest=digest.hexdigest())

  def check_annotations(self, plan: Plan) -> None:
    """Checks that the existing corpus was built from the current annotations.

    Args:
      plan: that of the current annotations.

    Raises:
      UserError: it was built from others.
    """
    built_lookups = self.info.metadata.get("lookups")
    changed_lookups = built_lookups is not None and built_lookups != self._lookup_fingerprints()
    if self.info.metadata.get("annotations") != plan.annotations_digest or changed_lookups:
      raise UserError(
        f"{self.folder} was built from other annotations{' or captions' if changed_lookups else ''} than"
        f" {self.raw_dir}; choose another name with --name=NAME, or delete this folder"
      )

  def record_spec(self) -> RecordSpec:
    """Returns how items become records."""
    config, options = self.builder_config, self.options
    lookups = self._all_lookups()
    return RecordSpec(config.frame_settings(), config.decoder, options.decode_timeout, lookups, extra=self.EXTRA_FIELDS)

  def _all_lookups(self) -> dict[str, str]:
    """Returns `lookups`, with the captions of the options in place of the corpus' own."""
    captions = os.fspath(storage.absolute(self.options.captions)) if self.options.captions else ""
    return {**self.lookups(self.raw_dir), **({"caption": captions} if captions else {})}

  def build(self, config: tfds.download.DownloadConfig) -> None:
    """Builds the corpus and logs the coverage.

    Of an existing corpus, checks the annotations and rebuilds the shards whose videos have changed. The old corpus is
    deleted when the new one is complete.

    Args:
      config: configuration of TFDS with a Beam runner and its options.

    Raises:
      UserError: see `download_and_prepare` and `check_annotations`.
    """
    if self.is_prepared():
      with tempfile.TemporaryDirectory() as folder:
        plan = self.plan(epath.Path(folder))
        self.check_annotations(plan)
        built = rebuild.BuiltShards.read(epath.Path(self.data_path) / rebuild.SHARDS_FILE)
        changed = rebuild.changed_shards(plan, built) if built else []
      if not built or not changed:
        log.info("%s exists and is up to date", self.folder)
        return build_lock.delete_leftovers(self.build_dir)
      self._rebuild(built, changed, config)
    self.download_and_prepare(download_config=config)
    for split, counts in self.info.metadata["coverage"].items():
      listed = ", ".join(f"{value} {name.replace('_', ' ')}" for name, value in counts.items() if value)
      log.info("%s: %s", split, listed)
    log.info("wrote %s", self.folder)

  def _rebuild(self, built: rebuild.BuiltShards, changed: list[str], config: tfds.download.DownloadConfig) -> None:
    """Builds changed shards beside the existing corpus, which is then deleted: all shards are in the working folder."""
    log.info("rebuilding %d of %d shards, whose videos changed since the build", len(changed), len(built.reports))
    self.options = dataclasses.replace(self.options, clips_per_shard=built.clips_per_shard)
    with build_lock.locked(self.build_dir):
      plan = self._plan = self.plan(self._plan_folder)  # kept, since reading the annotations may take minutes
      work = self._work(self.record_spec())
      rebuild.restore_shards(plan, built, changed, work, self._record_file)
      self._build_shards(config)
      if self._mirror:
        self._mirror.delete()
      else:
        epath.Path(self.data_path).rmtree()

  def _record_file(self, split: str, index: int, count: int) -> epath.Path:
    """Returns the path of one of `count` files of a split of the complete corpus."""
    template = self._get_filename_template(split_name=split)
    return self.folder / epath.Path(template.sharded_filepath(shard_index=index, num_shards=count)).name

  def download_and_prepare(self, **kwargs: Any) -> None:
    """Builds the corpus, or resumes its build. Takes the arguments of TFDS.

    Raises:
      UserError: the annotations are invalid, too many clips were skipped, the disk is full, or another process builds
        the same corpus.
    """
    with build_lock.locked(self.build_dir):
      if self._mirror and not self.is_prepared() and remote_corpus.is_complete(self.folder):
        raise UserError(f"{self.folder}: another process has built this corpus meanwhile; run the command again")
      super().download_and_prepare(**kwargs)
      if self.is_prepared():  # also if a build was killed before this cleanup
        assemble.write_digests(pathlib.Path(self.data_path))
        if self._mirror and not remote_corpus.is_complete(self.folder):
          self._mirror.commit()
        build_files.delete_folder(self.build_dir)

  def _info(self) -> tfds.core.DatasetInfo:
    pixels = self.builder_config.frame_settings().describe()
    info = self.dataset_info_from_configs(
      features=records.record_features(self.EXTRA_FIELDS),
      metadata=tfds.core.MetadataDict(pixels=pixels, settings=self._settings()),
      disable_shuffling=True,  # records keep the order of the items; training shuffles
    )
    return records.without_bucket(info)

  def _download_and_prepare(self, dl_manager: Any, download_config: Any = None) -> None:
    del dl_manager
    if self._mirror:  # records of a build that was killed
      build_files.delete_folder(self.folder)
    else:
      assemble.remove_orphans(self.build_dir.parent, str(self.version), epath.Path(self.data_path))
    plan, work, counts, shards = self._build_shards(download_config)
    folder = epath.Path(self.data_path)
    templates = {split: self._get_filename_template(split_name=split) for split in plan.counts}
    records = self.folder if self._mirror else folder
    splits = [assemble.link_split(split, shards[split], template, records) for split, template in templates.items()]
    self.info.set_splits(tfds.core.SplitDict(splits))
    build_files.link_or_copy(self.build_dir / coverage.SKIPPED_FILE, folder / coverage.SKIPPED_FILE)
    rebuild.write_reports(folder / rebuild.SHARDS_FILE, plan, work)
    self.info.metadata["coverage"] = counts.as_metadata()
    self.info.metadata["annotations"] = plan.annotations_digest
    self.info.metadata["lookups"] = self._lookup_fingerprints()
    self.info.metadata["records"] = assemble.digest_records(shards)
    if headers := text_lookup.headers(self._all_lookups().get("caption", "")):
      self.info.metadata["captions"] = headers

  def _build_shards(
    self, config: tfds.download.DownloadConfig
  ) -> tuple[Plan, BuildWork, Coverage, dict[str, list[assemble.WrittenShard]]]:
    """Builds all shards that are not up to date; returns them by split, with their coverage, which is checked."""
    plan, spec = self._plan or self.plan(self._plan_folder), self.record_spec()
    work = self._work(spec)
    runner.run_build(plan, spec, work, config)
    skipped_file = self.build_dir / coverage.SKIPPED_FILE
    counts, shards = assemble.collect_reports(plan, work, skipped_file)
    self._check_coverage(counts, skipped_file)
    return plan, work, counts, shards

  def _work(self, spec: RecordSpec) -> BuildWork:
    lookup_states = {field: (path, text_lookup.lookup_state(path)) for field, path in spec.lookups.items()}
    settings = json.dumps([self._settings(), lookup_states], sort_keys=True)
    return BuildWork(self.build_dir / "shards", settings, self.options.clips_per_shard)

  def _check_coverage(self, counts: Coverage, skipped_file: epath.Path) -> None:
    for split in counts.as_metadata():
      counts.check_skipped(split, self.options.max_skipped, skipped_file)
      counts.check_missing_texts(split, self.options.max_missing_text)

  def _check_settings(self) -> None:
    built, current = self.info.metadata["settings"], self._settings()  # those on disk if the corpus exists
    if built != current:
      changed = sorted(key for key in {*built, *current} if built.get(key) != current.get(key))
      raise UserError(
        f"{self.folder} was built with other settings ({', '.join(changed)}); delete this folder, or choose another"
        " name or data_dir"
      )

  def _settings(self) -> dict[str, Any]:
    return {"version": str(self.VERSION), **self.builder_config.content_settings()}

  def _lookup_fingerprints(self) -> dict[str, str]:
    return {field: text_lookup.lookup_fingerprint(path) for field, path in self._all_lookups().items()}

  def _log_download_bytes(self) -> None:
    """Disables TFDS' messages about downloads."""

  _log_download_done = _log_download_bytes
