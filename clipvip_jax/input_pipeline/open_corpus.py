"""Locates, builds where allowed, and opens corpora."""

import importlib
import importlib.util
import os
import pathlib
import pkgutil
import sys
from typing import TYPE_CHECKING

from ml_collections import ConfigDict

from clipvip_jax.input_pipeline.corpus import Corpus
from clipvip_jax.utils import file_digests
from clipvip_jax.utils.errors import UserError, first_line
from clipvip_jax.utils.log import log
from clipvip_jax.utils.storage import check_path

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

  check_path(str(config.data_dir or ""), _data_dir_flag(section), remote=False)
  builder_type = builder_class(config.name, section)
  registered = list(builder_type.builder_configs)
  generates = getattr(builder_type, "SYNTHETIC", False)
  if generates and (not config.config or config.config in registered):
    # Reopened from its folder, so that worker processes do not import the builder.
    return _open_folder(_generating_builder(builder_type, config, section).data_path)
  root = pathlib.Path(config.data_dir or tfds.core.constants.DATA_DIR).expanduser()
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
  return _open_folder(folders[name])


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
  builder = builder_type(config=config.config or None, data_dir=config.data_dir or None, file_format="array_record")
  if not builder.is_prepared():
    if not config.get("prepare", False):
      raise UserError(
        f"corpus {builder.info.full_name} is not in {builder.data_dir_root}; name its folder with"
        f" {_data_dir_flag(section)}=DIR, or build it there with {_prepare_flag(section)}"
      )
    _build(builder)
  return builder


def _build(builder: "tfds.core.DatasetBuilder") -> None:
  import tensorflow_datasets as tfds

  log.info("building corpus %s in %s", builder.info.full_name, builder.data_dir_root)
  if not sys.stderr.isatty():
    tfds.disable_progress_bar()  # it would fill a log file
  builder.download_and_prepare(file_format="array_record")
  coverage = (builder.info.metadata or {}).get("coverage", {})
  missing = {split: counts["expected"] - counts["found"] for split, counts in coverage.items()}
  if any(missing.values()):
    log.warning("skipped clips: %s; reasons are in %s", missing, builder.data_path)


def _list_built(folder: pathlib.Path) -> dict[str, pathlib.Path]:
  """Returns {configuration: folder of its newest version} of the corpora in DATA_DIR/NAME."""
  import tensorflow_datasets as tfds

  newest = {}
  for config in sorted(folder.iterdir()) if folder.is_dir() else []:
    versions = [path for path in config.iterdir() if (path / "features.json").exists()] if config.is_dir() else []
    versions = [path for path in versions if tfds.core.Version.is_valid(path.name)]
    if versions:
      newest[config.name] = max(versions, key=lambda path: tfds.core.Version(path.name))
  return newest


def _open_folder(folder: str | os.PathLike[str]) -> Corpus:
  import tensorflow_datasets as tfds

  try:
    file_digests.check_digests(pathlib.Path(folder))  # of the metadata, which a build writes
    return Corpus(tfds.builder_from_directory(folder))
  except Exception as error:  # TFDS raises exceptions of any type for a corrupt file
    raise UserError(
      f"{folder} is corrupt ({type(error).__name__}: {first_line(error)}); delete it and build the corpus again"
    ) from error
