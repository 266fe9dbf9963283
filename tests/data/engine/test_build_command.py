"""The command that error messages name."""

import shlex

from data.engine.build_command import build_command
from data.engine.corpus_config import BuildOptions, CorpusConfig

CONFIGS = {name: CorpusConfig(name=name, fps=fps) for name, fps in (("default", 3), ("dense", 6))}


def flags(config, options=BuildOptions()):  # noqa: B008 - frozen
  command = shlex.split(build_command("mine", "a b", config, CONFIGS, options))
  assert command[:5] == ["python", "-m", "clipvip_jax.data_tool", "build", "mine"] and "--data_dir=a b" in command
  return [flag for flag in command[5:] if flag != "--data_dir=a b"]


def test_known_configuration_is_selected_by_name():
  assert flags(CONFIGS["dense"]) == ["--config=dense"]


def test_custom_configuration_names_its_base_and_changes():
  custom = CorpusConfig(name="dense-short_side_64", fps=6, short_side=64)
  assert flags(custom) == ["--config=dense", "--name=dense-short_side_64", "--short_side=64"]


def test_only_changed_options_are_listed():
  options = BuildOptions(raw_dir="it's here", check_sizes=False, max_skipped=0.2)
  assert flags(CONFIGS["default"], options)[1:] == ["--raw_dir=it's here", "--check_sizes=false", "--max_skipped=0.2"]
