"""Options, validation of the training flags and a shell with dry runs, shared by all launchers."""

import argparse
import pathlib
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Sequence

from clipvip_jax.utils import storage
from clipvip_jax.utils.cli import Parser
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.recipes import find_recipe

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Flags of clipvip_jax.main that every launcher sets; a value from the user would contradict them.
LAUNCHER_FLAGS = ("distributed", "nodistributed", "coordinator", "num_processes", "process_id")


class Shell:
  """Prints and runs commands. With `dry_run` it only prints them, and every command counts as successful."""

  def __init__(self, *, dry_run: bool):
    self._dry_run = dry_run

  def require(self, tool: str, hint: str) -> None:
    """Checks that a program is installed; `hint` is where to get it.

    Raises:
      UserError: the program is not on PATH.
    """
    if not self._dry_run and shutil.which(tool) is None:
      raise UserError(f"{tool} is not installed, or not on PATH; {hint}. --dry-run prints the commands without it")

  def log(self, line: str) -> None:
    """Prints a progress line, except in a dry run."""
    if not self._dry_run:
      print(line, flush=True)

  def run(self, command: Sequence[str], *, text: str | None = None) -> int:
    """Runs a command with inherited output and returns its exit code. `text` is passed to its standard input."""
    here_document = f" <<'END_OF_INPUT'\n{text}END_OF_INPUT" if text is not None and self._dry_run else ""
    print(shlex.join(command) + here_document, flush=True)
    if self._dry_run:
      return 0
    return subprocess.run(command, check=False, input=text, text=True).returncode

  def run_checked(self, command: Sequence[str], *, text: str | None = None) -> None:
    """Runs a command as `run` does.

    Raises:
      UserError: the exit code is not 0.
    """
    if code := self.run(command, text=text):
      raise UserError(f"{shlex.join(command[:5])} ... failed with exit code {code}; see its output above")

  def capture(self, command: Sequence[str], *, dry_run_output: str) -> tuple[int, str, str]:
    """Runs a command and returns (exit code, standard output, standard error); a dry run returns `dry_run_output`."""
    if self._dry_run:
      print(shlex.join(command), flush=True)
      return 0, dry_run_output, ""
    process = subprocess.run(command, check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    return process.returncode, process.stdout.strip(), process.stderr.strip()


def parser(description: str | None) -> Parser:
  """Returns a parser with the options that all launchers accept."""
  options = Parser(description)
  options.add_argument("--name", required=True, type=resource_name, help="name of the job or slice, such as vip-b16")
  options.add_argument(
    "--env",
    action="append",
    default=[],
    type=_variable,
    metavar="NAME=VALUE",
    help="environment variable of the run; repeatable",
  )
  options.add_argument(
    "--max_restarts", type=at_least(0), default=100, help="restarts before the launcher gives up; default: 100"
  )
  options.add_argument("--dry-run", "--dry_run", action="store_true", help="print commands and files, run nothing")
  return options


def parse(options: Parser, argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
  """Splits a command line at `--`.

  Returns:
    The launcher's options, and the arguments after `--`, which are passed to clipvip_jax.main.

  Raises:
    UserError: an unknown option, an invalid value or a control character.
  """
  launcher_args, training_args = list(argv), []
  if "--" in launcher_args:
    split = launcher_args.index("--")
    launcher_args, training_args = launcher_args[:split], launcher_args[split + 1 :]
  for arg in [*launcher_args, *training_args]:
    if any(ord(char) < 32 or ord(char) == 127 for char in arg):
      raise UserError(f"{arg!r} contains a line break or another control character; remove it")
  return options.parse_args(launcher_args), training_args


def check_training(training_args: Sequence[str], *, remote: bool) -> None:
  """Validates the flags of clipvip_jax.main before any machine is requested.

  Args:
    training_args: the arguments after `--`.
    remote: whether the run starts on machines that have only a copy of the project, not this machine's files.

  Raises:
    UserError: --config or --workdir is missing, the recipe does not exist, a flag belongs to the launcher, or the
      workdir is neither a shared local path nor in a bucket.
  """
  recipe, workdir = flag_value(training_args, "config"), flag_value(training_args, "workdir")
  for flag, content in (("config", recipe), ("workdir", workdir)):
    if not content:
      raise UserError(f"--{flag} is missing after --; add it: -- --config=post_pretrain --workdir=/shared/runs/b16")
  for arg in training_args:
    if (flag := arg.lstrip("-").partition("=")[0]) in LAUNCHER_FLAGS and arg.startswith("-"):
      raise UserError(f"--{flag} is set by the launcher; remove it from the arguments after --")
  _check_recipe(recipe.partition(":")[0], remote=remote)
  storage.check_path(workdir, "--workdir", packages=False)  # they are installed where the run starts
  if remote and not workdir.startswith("/") and not storage.is_remote(workdir):
    raise UserError(
      f"--workdir={workdir} is not an absolute path; pass the path of a folder that all machines share, or gs:// or s3://"
    )


def _check_recipe(recipe: str, *, remote: bool) -> None:
  path = find_recipe(recipe, ROOT).resolve()
  if remote and (recipe.startswith("/") or not path.is_relative_to(ROOT / "configs")):
    raise UserError(f"--config={recipe} is not copied to other machines; use a recipe by its name, or configs/NAME.py")


def flag_value(args: Sequence[str], flag: str) -> str:
  """Returns the last value of a flag, given as `--flag=value` or `--flag value`; "" if absent."""
  last = ""
  for arg, next_arg in zip(args, [*args, ""][1:], strict=True):
    name, equals, content = arg.partition("=")
    if name in (f"--{flag}", f"-{flag}"):
      last = content if equals else next_arg
  return last


def resource_name(text: str) -> str:
  """Argparse type of a name that is valid on Kubernetes (RFC 1035) and Google Cloud."""
  if len(text) > 63 or not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", text):
    raise argparse.ArgumentTypeError(
      f"{text!r} must be at most 63 lower-case letters, digits and '-', begin with a letter and not end with '-'"
    )
  return text


def at_least(minimum: int) -> Callable[[str], int]:
  """Returns an argparse type of integers that are not below `minimum`."""

  def integer(text: str) -> int:
    if not re.fullmatch(r"-?[0-9]+", text) or int(text) < minimum:
      raise argparse.ArgumentTypeError(f"{text!r} must be an integer of at least {minimum}")
    return int(text)

  return integer


def _variable(text: str) -> tuple[str, str]:
  name, equals, content = text.partition("=")
  if not equals or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
    raise argparse.ArgumentTypeError(f"{text!r} must be NAME=VALUE, with a name of letters, digits and '_'")
  return name, content
