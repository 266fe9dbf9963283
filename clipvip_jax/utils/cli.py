"""What the command lines share: options, one line for bad input, exit codes."""

import argparse
import sys
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import configure_logging, printable

FAULT, BAD_INPUT, INTERRUPTED = 1, 2, 130
# 128 + SIGTERM: what a launcher reads as "ended from outside", so that it starts the run again.
EXIT_TERMINATED = 143
# sysexits' EX_TEMPFAIL, "try again": a run that stood still or lost one of its processes.
EXIT_HUNG = 75
# After these the same command goes on: what launchers start again.
RESTART_EXIT_CODES = (EXIT_HUNG, EXIT_TERMINATED)


class Parser(argparse.ArgumentParser):
  """argparse's, whose errors are ours. `description` is the module's docstring, shown by --help as it is."""

  def __init__(self, description: str | None):
    super().__init__(description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)

  def error(self, message: str) -> NoReturn:
    """Raises UserError in place of printing the usage."""
    raise UserError(f"{message}; see --help")


def run_command(main: Callable[[], Any]) -> None:
  """Runs a command of the project, as `exit_on_error`, with its log shown."""
  configure_logging()
  exit_on_error(main)


def exit_on_error(main: Callable[[], Any]) -> None:
  """Runs a command; bad input, and files that cannot be read or written, end with one line and exit code 2."""
  try:
    main()
  except (UserError, OSError, KeyboardInterrupt) as error:
    sys.exit(report_error(error))


def report_error(error: BaseException) -> int:
  """Prints an error, in one line where it is none of ours, and gives the exit code that stands for it."""
  code = BAD_INPUT
  if isinstance(error, UserError):
    message = str(error)
  elif isinstance(error, OSError):
    message = f"{error.filename or 'a file'}: {error.strerror or error}"
  elif isinstance(error, KeyboardInterrupt):
    message, code = "interrupted", INTERRUPTED
  else:
    traceback.print_exception(error)
    return FAULT
  print(f"error: {printable(message)}", file=sys.stderr)
  return code
