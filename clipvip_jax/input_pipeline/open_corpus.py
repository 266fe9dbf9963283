"""Locates, builds where allowed, and opens corpora."""

import importlib
import importlib.util
import os
import pathlib
import pkgutil
import sys
import tempfile
from typing import TYPE_CHECKING

from etils import epath
from ml_collections import ConfigDict

from clipvip_jax.input_pipeline import remote_corpus
from clipvip_jax.input_pipeline.corpus import Corpus
from clipvip_jax.input_pipeline.corpus_errors import metadata_error
from clipvip_jax.input_pipeline.file_cache import FileCache
from clipvip_jax.input_pipeline.remote_records import DEFAULT_CACHE_GB, RecordStore, open_cache
from clipvip_jax.utils import file_digests, storage, transfers
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.local_paths import expand_user
from clipvip_jax.utils.log import log

if TYPE_CHECKING:
  import tensorflow_datasets as tfds


def open_corpus(config: ConfigDict, section: str = "data") -> Corpus:
  """Opens a corpus.

  A configuration that its builder generates (synthetic data) is built first if it is missing and `prepare` allows it.
  Any other one is opened from DATA_DIR/NAME/CONFIG/VERSION, in its newest version, even if the builder does not
  register its name.

  Args:
    config: `name`, `config`, `data_dir` and optionally `prepare`, as `config.data` has them.
    section: path of `config` in the run's configuration, for error messages; "" for the options of a command.

  Raises:
    UserError: the corpus or configuration does not exist, is not built, or is corrupt.
  """
  import tensorflow_datasets as tfds

  data_dir = str(config.data_dir or "")
  storage.check_path(data_dir, _data_dir_flag(section))
  storage.check_bucket(data_dir, _data_dir_flag(section))
  cache = None
  if storage.is_remote(data_dir):
    flag = "--config.data.cache_" if section else "--cache_"
    cache = open_cache(config.get("cache_dir", ""), config.get("cache_gb", DEFAULT_CACHE_GB), data_dir, flag)
  builder_type = builder_class(config.name, section)
  registered = list(builder_type.builder_configs)
  generates = getattr(builder_type, "SYNTHETIC", False)
  if generates and (not config.config or config.config in registered):
    # Reopened from its folder, so that worker processes do not import the builder.
    return _open_folder(_generating_builder(builder_type, config, section).folder, cache)
  root = epath.Path(expand_user(data_dir or str(tfds.core.constants.DATA_DIR)))
  command = f"python -m clipvip_jax.data_tool build {config.name} --data_dir={root}"
  if config.get("prepare", False):
    remedy = f"choose one of: {', '.join(registered)}" if generates else f"build it from files: {command}"
    raise UserError(f"{section}.prepare=True cannot build {section}.config={config.config!r}; {remedy}")
  folders = _list_built(root / config.name)
  name = config.config or (registered[0] if registered else "")
  if name not in folders:
    remedy = f"build a registered one with {_prepare_flag(section)}" if generates else f"build it: {command}"
    raise UserError(
      f"{_field(section, 'config')}={name!r} of corpus {config.name} is not in {root} (built:"
      f" {', '.join(folders) or 'none'}; registered: {', '.join(registered) or 'none'}). Name its folder with"
      f" {_data_dir_flag(section)}=DIR, or {remedy}"
    )
  return _open_folder(folders[name], cache)


def builder_class(name: str, section: str = "data") -> "type[tfds.core.GeneratorBasedBuilder]":
  """Imports the builder in `data/NAME/NAME_dataset_builder.py`.

  Raises:
    UserError: there is no such builder.
  """
  module = f"clipvip_jax.data.{name}.{name}_dataset_builder"
  try:
    return importlib.import_module(module).Builder
  except ModuleNotFoundError as error:
    if not module.startswith(error.name or "?"):
      raise
    package = importlib.import_module("clipvip_jax.data")
    names = [
      info.name
      for info in pkgutil.iter_modules(package.__path__)
      if importlib.util.find_spec(f"clipvip_jax.data.{info.name}.{info.name}_dataset_builder")
    ]
    raise UserError(
      f"{_field(section, 'name')}={name!r} is not a corpus in data/; choose one of: {', '.join(names)}, or add one"
      " (CONTRIBUTING.md)"
    ) from None


def _field(section: str, field: str) -> str:
  """Returns the name of a config field for an error message; that of a positional argument if `section` is ""."""
  return f"{section}.{field}" if section else {"name": "corpus", "config": "configuration"}[field]


def _data_dir_flag(section: str) -> str:
  return f"--config.{section}.data_dir" if section else "--data_dir"


def _prepare_flag(section: str) -> str:
  return "--config.data.prepare=True" + ("" if section else " of python -m clipvip_jax.main")


def _generating_builder(
  builder_type: "type[tfds.core.GeneratorBasedBuilder]", config: ConfigDict, section: str
) -> "tfds.core.DatasetBuilder":
  """Returns the prepared builder of a corpus that it generates; it checks the settings of existing records."""
  import tensorflow_datasets as tfds

  builder = builder_type(config=config.config or None, data_dir=config.data_dir or None, file_format="array_record")
  # `builder.is_prepared` takes the path for a pattern, as data_dir=data[1].
  if not (builder.data_path / tfds.core.constants.DATASET_INFO_FILENAME).exists():
    if not config.get("prepare", False):
      raise UserError(
        f"corpus {builder.info.full_name} is not in {config.data_dir or builder.data_dir_root}; name its folder with"
        f" {_data_dir_flag(section)}=DIR, or build it there with {_prepare_flag(section)}"
      )
    _build(builder)
  return builder


def _build(builder: "tfds.core.DatasetBuilder") -> None:
  import tensorflow_datasets as tfds

  log.info("building corpus %s", builder.folder)
  if not sys.stderr.isatty():
    tfds.disable_progress_bar()  # it would fill a log file
  builder.download_and_prepare(file_format="array_record")
  coverage = (builder.info.metadata or {}).get("coverage", {})
  missing = {split: counts["expected"] - counts["found"] for split, counts in coverage.items()}
  if any(missing.values()):
    log.warning("skipped clips: %s; reasons are in %s", missing, builder.folder)


def _list_built(folder: epath.Path) -> dict[str, epath.Path]:
  """Returns {configuration: folder of its newest version} of the corpora in DATA_DIR/NAME."""
  import tensorflow_datasets as tfds

  if storage.is_remote(folder):
    names = transfers.list_names(folder)
  else:
    names = [
      path.relative_to(folder).as_posix() for path in pathlib.Path(folder).glob(f"*/*/{remote_corpus.LAST_FILE}")
    ]
  versions: dict[str, list[str]] = {}
  for name in sorted(names):
    config_name, version, *last = [*name.split("/", 2), ""][:3]
    if last == [remote_corpus.LAST_FILE] and tfds.core.Version.is_valid(version):
      versions.setdefault(config_name, []).append(version)
  return {name: folder / name / max(built, key=tfds.core.Version) for name, built in versions.items()}


def _open_folder(folder: epath.Path, cache: FileCache | None) -> Corpus:
  """Opens a corpus. TFDS reads the metadata of one in an object store from a copy."""
  if not storage.is_remote(folder):
    return Corpus(_read_metadata(folder, folder))
  local = tempfile.TemporaryDirectory(prefix="clipvip_jax_")
  copy = epath.Path(local.name, *folder.parts[-3:])
  remote_corpus.download_metadata(folder, pathlib.Path(copy))
  return Corpus(_read_metadata(copy, folder), RecordStore(os.fspath(folder), cache, local))


def _read_metadata(folder: epath.Path, name: epath.Path) -> "tfds.core.DatasetBuilder":
  import tensorflow_datasets as tfds

  try:
    file_digests.check_digests(pathlib.Path(folder))  # of the metadata, which a build writes
    return tfds.builder_from_directory(folder)
  except Exception as error:
    raise metadata_error(name, error) from error
