"""What the launchers share: options, checks of a run's command, and a shell that may only show what it would do."""

import argparse
import pathlib
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Sequence

from clipvip_jax.utils.cli import Parser
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.local_paths import require_local_path

ROOT = pathlib.Path(__file__).resolve().parent.parent
# What JAX is told by a launcher; given by hand it would contradict that.
_OURS = ("distributed", "nodistributed", "coordinator", "num_processes", "process_id")


class Shell:
  """Runs commands and shows each; with `dry_run` it only shows them, and every one succeeds."""

  def __init__(self, *, dry_run: bool):
    self._dry_run = dry_run

  def require(self, tool: str, why: str) -> None:
    """Refuses to go on without a program.

    Raises:
      UserError: it is not on PATH.
    """
    if not self._dry_run and shutil.which(tool) is None:
      raise UserError(f"{tool} is not installed, or not on PATH: {why}. --dry-run shows what would be run without it")

  def say(self, line: str) -> None:
    """Tells what has happened; in a dry run nothing has."""
    if not self._dry_run:
      print(line, flush=True)

  def run(self, command: Sequence[str], *, text: str | None = None) -> int:
    """Runs a command whose output a person sees; gives its exit code. `text`: lines for its standard input."""
    here_document = f" <<'END_OF_INPUT'\n{text}END_OF_INPUT" if text is not None and self._dry_run else ""
    print(shlex.join(command) + here_document, flush=True)
    if self._dry_run:
      return 0
    return subprocess.run(command, check=False, input=text, text=True).returncode

  def must(self, command: Sequence[str], *, text: str | None = None) -> None:
    """As `run`.

    Raises:
      UserError: another exit code than 0.
    """
    if code := self.run(command, text=text):
      raise UserError(f"{shlex.join(command[:5])} ... ended with exit code {code}; what it said stands above")

  def ask(self, command: Sequence[str], *, assumed: str) -> tuple[int, str, str]:
    """(exit code, output, errors) of a command; with `dry_run` it is taken to answer `assumed`."""
    if self._dry_run:
      print(shlex.join(command), flush=True)
      return 0, assumed, ""
    done = subprocess.run(command, check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    return done.returncode, done.stdout.strip(), done.stderr.strip()


def parser(description: str | None) -> Parser:
  """A command line with what every launcher takes."""
  options = Parser(description)
  options.add_argument("--name", required=True, type=label, help="of the run where it is launched, as in vip-b16")
  options.add_argument("--env", action="append", default=[], type=_variable, metavar="NAME=VALUE", help="repeatable")
  options.add_argument("--max_restarts", type=at_least(0), default=100, help="after that many the run stays ended")
  options.add_argument("--dry-run", "--dry_run", action="store_true", help="show commands and files, and run nothing")
  return options


def parse(options: Parser, argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
  """(the launcher's options, what stands behind `--` for clipvip_jax.main).

  Raises:
    UserError: an option that does not exist or has a wrong value.
  """
  own, tail = list(argv), []
  if "--" in own:
    split = own.index("--")
    own, tail = own[:split], own[split + 1 :]
  for arg in [*own, *tail]:
    if any(ord(char) < 32 or ord(char) == 127 for char in arg):
      raise UserError(f"{arg!r} holds a line break or another character that no option needs")
  return options.parse_args(own), tail


def check_training(tail: Sequence[str], *, elsewhere: bool) -> None:
  """Refuses options of clipvip_jax.main that cannot work, before a machine is asked for.

  Args:
    tail: what stands behind `--`.
    elsewhere: the run starts on machines that see none of this one's files but the project's.

  Raises:
    UserError: no --config or --workdir, a recipe that does not exist, a folder that the machines would not share.
  """
  recipe, workdir = value(tail, "config"), value(tail, "workdir")
  for name, found in (("config", recipe), ("workdir", workdir)):
    if not found:
      raise UserError(
        f"--{name} is missing behind --, as in: -- --config=configs/post_pretrain.py --workdir=/shared/runs/one"
      )
  for arg in tail:
    if (name := arg.lstrip("-").partition("=")[0]) in _OURS and arg.startswith("-"):
      raise UserError(f"--{name} is given by the launcher: leave it out behind --")
  _check_recipe(recipe.partition(":")[0], elsewhere=elsewhere)
  require_local_path(workdir, "--workdir")
  if elsewhere and not workdir.startswith("/"):
    raise UserError(f"--workdir={workdir} must be a whole path, from /, of a folder that all machines share")


def _check_recipe(name: str, *, elsewhere: bool) -> None:
  path = (ROOT / name).resolve()
  if not path.is_file():
    known = sorted(str(other.relative_to(ROOT)) for other in (ROOT / "configs").glob("*.py"))
    recipes = [name for name in known if not name.endswith(("__init__.py", "common.py", "variants.py"))]
    raise UserError(f"there is no recipe {name!r}; there are: {', '.join(recipes)}")
  if elsewhere and (name.startswith("/") or not path.is_relative_to(ROOT / "configs")):
    raise UserError(f"--config={name}: only recipes in configs/ travel to other machines; name it configs/NAME.py")


def value(tail: Sequence[str], flag: str) -> str:
  """The last value of a flag, as `--flag=value` or `--flag value`; "" where it is not given."""
  found = ""
  for arg, after in zip(tail, [*tail, ""][1:], strict=True):
    name, equals, given = arg.partition("=")
    if name in (f"--{flag}", f"-{flag}"):
      found = given if equals else after
  return found


def label(text: str) -> str:
  """A name that Kubernetes (RFC 1035) and Google Cloud take; else argparse says what is allowed."""
  if len(text) > 63 or not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", text):
    raise argparse.ArgumentTypeError(
      f"{text!r} must be at most 63 lower-case letters, digits and '-', begin with a letter and not end with '-'"
    )
  return text


def at_least(least: int) -> Callable[[str], int]:
  """An argparse type: a whole number that is not below `least`."""

  def number(text: str) -> int:
    if not re.fullmatch(r"-?[0-9]+", text) or int(text) < least:
      raise argparse.ArgumentTypeError(f"{text!r} must be a whole number of at least {least}")
    return int(text)

  return number


def _variable(text: str) -> tuple[str, str]:
  name, equals, content = text.partition("=")
  if not equals or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
    raise argparse.ArgumentTypeError(f"{text!r} must be NAME=VALUE, with a name of letters, digits and '_'")
  return name, content
