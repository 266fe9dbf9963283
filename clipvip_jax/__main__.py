"""The console command: runs the commands of the package by name.

  clipvip COMMAND [ARGUMENTS ...]

`clipvip embed ...` equals `python -m clipvip_jax.embed ...`, except that modules in the working directory do not
precede installed ones.
"""

import ast
import os
import pathlib
import pkgutil
import runpy
import sys
from collections.abc import Sequence

import clipvip_jax
from clipvip_jax.utils.cli import check_output, exit_on_error
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import flush_output, open_standard_streams


def command_summaries() -> dict[str, str]:
  """Returns {command: first line of its module's docstring}, without importing the commands."""
  names = sorted(info.name for info in pkgutil.iter_modules(clipvip_jax.__path__) if not info.ispkg)
  folder = pathlib.Path(clipvip_jax.__path__[0])
  trees = {name: ast.parse((folder / f"{name}.py").read_text(encoding="utf-8")) for name in names if name[0] != "_"}
  return {name: (ast.get_docstring(tree) or "").partition("\n")[0] for name, tree in trees.items()}


def main(argv: Sequence[str] | None = None) -> None:
  """Runs a command in this process.

  Args:
    argv: name of the command and its arguments; None: those of the process.
  """
  open_standard_streams()
  exit_on_error(lambda: _run(list(sys.argv[1:] if argv is None else argv)))
  check_output(flush_output(sys.stdout))


def _run(argv: list[str]) -> None:
  summaries = command_summaries()
  name = argv[0] if argv else ""
  if name in ("-h", "--help"):
    print("usage: clipvip COMMAND [ARGUMENTS ...]\n\ncommands (clipvip COMMAND --help shows the arguments):")
    print("\n".join(f"  {command:<14}{summary}" for command, summary in summaries.items()))
    return
  if name == "--version":
    print(f"clipvip_jax {clipvip_jax.__version__}")
    return
  if name not in summaries:
    problem = f"{name!r} is not a command of clipvip" if name else "the command is missing"
    raise UserError(f"{problem}; use one of: {', '.join(summaries)}, or --help")
  working_directory = os.fspath(pathlib.Path.cwd())
  if working_directory not in sys.path:  # for options that name the user's code, as in --decoder=MODULE:FUNCTION
    sys.path.append(working_directory)
  sys.argv[1:] = argv[1:]
  runpy.run_module(f"clipvip_jax.{name}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
  main()
