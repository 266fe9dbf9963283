"""Command-line flags of a recipe (a file, or one of configs/ by name) and its overrides.

--config=RECIPE:VARIANTS --config.SECTION.FIELD=VALUE ...
"""

import runpy
from collections.abc import Callable, Sequence
from typing import TypeVar

import ml_collections
from absl import flags
from ml_collections import config_flags

from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.recipes import find_recipe

T = TypeVar("T")


def parse_config(argv: Sequence[str]) -> ml_collections.ConfigDict:
  """Parses a command line that holds nothing but --config and its overrides.

  Raises:
    UserError: the recipe, a variant, a field or a value does not exist, or there is another argument.
  """
  flag_values = flags.FlagValues()
  argv = resolve_recipe(argv)
  args = ["", *argv]
  config = config_flags.DEFINE_config_file("config", None, "", flag_values, sys_argv=args)
  rest = explain_errors(argv, lambda: flag_values(args))
  if len(rest) > 1:
    raise UserError(f"unexpected argument {rest[1]!r}; see --help")
  explain_errors(argv, lambda: getattr(config.value, "seed", None))  # the recipe is loaded on its first use
  return config.value


def resolve_recipe(argv: Sequence[str]) -> list[str]:
  """Replaces the recipe that --config names by the path of its file, which `config_flags` reads.

  Raises:
    UserError: it is neither a file nor the name of a recipe.
  """
  resolved = list(argv)
  for index, arg in enumerate(argv):
    flag, equals, value = arg.partition("=")
    if flag not in ("--config", "-config"):
      continue
    if equals:
      resolved[index] = f"{flag}={_with_path(value)}"
    elif index + 1 < len(argv):
      resolved[index + 1] = _with_path(argv[index + 1])
  return resolved


def _with_path(recipe: str) -> str:
  name, colon, variants = recipe.partition(":")
  return f"{find_recipe(name)}{colon}{variants}" if name else recipe


def explain_errors(argv: Sequence[str], parse: Callable[[], T]) -> T:
  """Returns `parse()`. Every error of a recipe or an override becomes a UserError.

  Raises:
    UserError: names what is wrong, and the fields that exist.
  """
  try:
    return parse()
  except Exception as error:  # a recipe is a program and may raise anything
    _check_fields(argv)
    # The message of an error within a recipe contains its traceback, whose last line is the error itself.
    message = (str(error).strip() or repr(error)).splitlines()[-1].strip('"')
    raise UserError(message.removeprefix("ValueError: ")) from error  # recipes raise it for wrong variants


def _check_fields(argv: Sequence[str]) -> None:
  """Raises UserError for a field that does not exist, and names those that do."""
  recipes = [arg.removeprefix("--config=") for arg in argv if arg.startswith("--config=")]
  if not recipes:
    return
  name, _, variants = recipes[-1].partition(":")
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
