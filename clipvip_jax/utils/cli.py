"""Argument parser, exit codes and error reporting shared by all commands."""

import argparse
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

from clipvip_jax.utils import signals
from clipvip_jax.utils.errors import Terminated, UserError
from clipvip_jax.utils.log import configure_logging, log, printable

EXIT_FAILURE = 1  # a bug: an exception with its traceback
EXIT_BAD_INPUT = 2  # an error that the user can fix, in one line
EXIT_HUNG = 75  # the watchdog ended a run without progress or with a dead peer process (EX_TEMPFAIL of sysexits.h)
EXIT_INTERRUPTED = 130  # Ctrl-C: 128 + SIGINT
EXIT_TERMINATED = 143  # SIGTERM; what was done is saved: 128 + SIGTERM
# After these the same command resumes the run, so launchers restart it.
RESTART_EXIT_CODES = (EXIT_HUNG, EXIT_TERMINATED)


class Parser(argparse.ArgumentParser):
  """ArgumentParser that raises UserError and shows `description`, a module's docstring, unchanged in --help."""

  def __init__(self, description: str | None):
    super().__init__(description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)

  def error(self, message: str) -> NoReturn:
    """Raises UserError instead of printing the usage and exiting."""
    raise UserError(f"{message}; see --help")


def run_command(main: Callable[[], object]) -> None:
  """Configures logging, then runs a command as `exit_on_error` does."""
  configure_logging()
  try:
    exit_on_error(main)
  finally:
    signals.ignore()  # the exit code is decided


def exit_on_error(main: Callable[[], object]) -> None:
  """Runs a command. Bad input, files that cannot be read or written, and signals exit with one line."""
  try:
    main()
  except Terminated as stop:
    log.info("%s", stop)
    sys.exit(stop.exit_code)
  except (UserError, OSError, KeyboardInterrupt) as error:
    sys.exit(report_error(error))


def report_error(error: BaseException) -> int:
  """Prints an error to standard error: one line if the user can fix it, else the traceback.

  Returns:
    The exit code for this kind of error.
  """
  code = EXIT_BAD_INPUT
  if isinstance(error, UserError):
    message = str(error)
  elif isinstance(error, OSError):
    message = f"{error.filename or 'a file'}: {error.strerror or error}"
  elif isinstance(error, KeyboardInterrupt):
    message, code = "interrupted", EXIT_INTERRUPTED
  else:
    traceback.print_exception(error)
    return EXIT_FAILURE
  print(f"error: {printable(message)}", file=sys.stderr)
  return code
