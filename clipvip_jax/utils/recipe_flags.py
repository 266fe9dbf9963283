"""A recipe and its overrides, from a command line: `--config=FILE:VARIANTS --config.SECTION.FIELD=VALUE ...`."""

import pathlib
import runpy
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags
from ml_collections import config_flags

from clipvip_jax.utils.errors import UserError


def parse_config(argv: Sequence[str]) -> Any:
  """The configuration that `argv` names; nothing else may stand there.

  Raises:
    UserError: a recipe, a variant, a field or a value that does not exist.
  """
  found = flags.FlagValues()
  everything = ["", *argv]
  config = config_flags.DEFINE_config_file("config", None, "", found, sys_argv=everything)
  rest = explain_errors(argv, lambda: found(everything))
  if len(rest) > 1:
    raise UserError(f"unexpected argument {rest[1]!r}; see --help")
  return explain_errors(argv, lambda: config.value)


def explain_errors(argv: Sequence[str], parse: Callable[[], Any]) -> Any:
  """What `parse` gives, with every way in which a recipe or an override can be wrong as one kind of error.

  Raises:
    UserError: what is wrong, and what is allowed where that is known.
  """
  try:
    return parse()
  except Exception as error:  # a recipe is a program, which may fail in any way
    _explain(argv)
    # An error within a recipe comes with its traceback; the last line says what is wrong.
    raise UserError((str(error).strip() or repr(error)).splitlines()[-1].strip('"')) from error


def _explain(argv: Sequence[str]) -> None:
  """Raises UserError for a recipe or a field that does not exist, naming those that do; else returns."""
  recipes = [arg.removeprefix("--config=") for arg in argv if arg.startswith("--config=")]
  if not recipes:
    return
  name, _, variants = recipes[-1].partition(":")
  path = pathlib.Path(name)
  if not path.is_file():
    known = sorted(
      str(other) for other in path.parent.glob("*.py") if other.stem not in ("__init__", "common", "variants")
    )
    raise UserError(f"there is no recipe {name!r}; there are: {', '.join(known) or 'none in that folder'}")
  try:
    config = runpy.run_path(name)["get_config"](variants)
  except Exception:  # the recipe itself is wrong, which the caller's error says
    return
  for arg in argv:
    if arg.startswith("--config."):
      _check_field(config, arg.removeprefix("--config.").split("=")[0])


def _check_field(config: Any, name: str) -> None:
  """Raises UserError where `config` has no field `name`, as in "optimizer.b1"."""
  there = "config"
  for field in name.split("."):
    if not hasattr(config, "keys"):
      raise UserError(f"--config.{name}: {there} is a value and has no fields")
    if field not in config:
      raise UserError(f"--config.{name}: {there} has no field {field!r}; it has: {', '.join(config)}")
    config, there = config[field], f"{there}.{field}"
