"""Command lines that build a corpus, for error messages."""

from __future__ import annotations

import dataclasses
import os
import shlex
from collections.abc import Mapping

from data.engine.corpus_config import BuildOptions, CorpusConfig


def build_command(
  name: str,
  data_dir: str | os.PathLike[str],
  config: CorpusConfig,
  configs: Mapping[str, CorpusConfig],
  options: BuildOptions,
) -> str:
  """Returns the `data_tool build` command of a corpus.

  Args:
    name: Name of the corpus.
    data_dir: Dataset directory.
    config: The configuration, which need not be one of `configs`.
    configs: The builder's configurations by name.
    options: Options of the build.
  """
  option_flags = [
    f"--{field.name}={str(value).lower() if isinstance(value, bool) else value}"
    for field in dataclasses.fields(options)
    if (value := getattr(options, field.name)) != field.default
  ]
  command = ["python", "-m", "clipvip_jax.data_tool", "build", name]
  return shlex.join([*command, *_config_flags(config, configs), f"--data_dir={os.fspath(data_dir)}", *option_flags])


def _config_flags(config: CorpusConfig, configs: Mapping[str, CorpusConfig]) -> list[str]:
  """Returns flags that select a configuration and change its fields."""
  if config.name in configs:
    return [f"--config={config.name}"]
  # Fields that flags cannot set must be equal in the base configuration.
  compatible = [key for key, base in configs.items() if (base.splits, base.sizes) == (config.splits, config.sizes)]
  base = configs[max(compatible or configs, key=lambda key: (config.name.startswith(key), len(key)))]
  old, new = base.content_settings(), config.content_settings()
  changes = [f"--{key}={value}" for key, value in new.items() if old.get(key) != value]
  return [f"--config={base.name}", f"--name={config.name}", *changes]
