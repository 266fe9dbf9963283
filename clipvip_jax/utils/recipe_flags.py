"""Command-line flags of a recipe (a file in configs/) and its overrides.

--config=FILE:VARIANTS --config.SECTION.FIELD=VALUE ...
"""

import pathlib
import runpy
from collections.abc import Callable, Sequence
from typing import TypeVar

import ml_collections
from absl import flags
from ml_collections import config_flags

from clipvip_jax.utils.errors import UserError

T = TypeVar("T")


def parse_config(argv: Sequence[str]) -> ml_collections.ConfigDict:
  """Parses a command line that holds nothing but --config and its overrides.

  Raises:
    UserError: the recipe, a variant, a field or a value does not exist, or there is another argument.
  """
  flag_values = flags.FlagValues()
  args = ["", *argv]
  config = config_flags.DEFINE_config_file("config", None, "", flag_values, sys_argv=args)
  rest = explain_errors(argv, lambda: flag_values(args))
  if len(rest) > 1:
    raise UserError(f"unexpected argument {rest[1]!r}; see --help")
  explain_errors(argv, lambda: getattr(config.value, "seed", None))  # the recipe is loaded on its first use
  return config.value


def explain_errors(argv: Sequence[str], parse: Callable[[], T]) -> T:
  """Returns `parse()`. Every error of a recipe or an override becomes a UserError.

  Raises:
    UserError: names what is wrong, and the recipes or fields that exist.
  """
  try:
    return parse()
  except Exception as error:  # a recipe is a program and may raise anything
    _check_recipe_and_fields(argv)
    # The message of an error within a recipe contains its traceback, whose last line is the error itself.
    raise UserError((str(error).strip() or repr(error)).splitlines()[-1].strip('"')) from error


def _check_recipe_and_fields(argv: Sequence[str]) -> None:
  """Raises UserError for a recipe or a field that does not exist, and names those that do."""
  recipes = [arg.removeprefix("--config=") for arg in argv if arg.startswith("--config=")]
  if not recipes:
    return
  name, _, variants = recipes[-1].partition(":")
  path = pathlib.Path(name)
  if not path.is_file():
    known = sorted(
      str(other) for other in path.parent.glob("*.py") if other.stem not in ("__init__", "common", "variants")
    )
    raise UserError(f"--config={name} is not a file; recipes in that folder: {', '.join(known) or 'none'}")
  try:
    config = runpy.run_path(name)["get_config"](variants)
  except Exception:  # an error in the recipe itself, which the caller reports
    return
  for arg in argv:
    if arg.startswith("--config."):
      _check_field(config, arg.removeprefix("--config.").split("=")[0])


def _check_field(config: ml_collections.ConfigDict, name: str) -> None:
  """Raises UserError if `config` has no field `name`, as in "optimizer.b1"."""
  node, path = config, "config"
  for field in name.split("."):
    if not hasattr(node, "keys"):
      raise UserError(f"--config.{name}: {path} is a value and has no fields; set it with --{path}=VALUE")
    if field not in node:
      raise UserError(f"--config.{name}: {path} has no field {field!r}; it has: {', '.join(node)}")
    node, path = node[field], f"{path}.{field}"
