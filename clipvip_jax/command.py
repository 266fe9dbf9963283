"""What the command lines share: options, one line for bad input, exit codes."""

import argparse
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from clipvip_jax.errors import UserError
from clipvip_jax.log import printable, show

BAD_INPUT, INTERRUPTED = 2, 130
# 128 + SIGTERM: what a launcher reads as "ended from outside", so that it starts the run again.
TERMINATED = 143


class Parser(argparse.ArgumentParser):
  """argparse's, whose errors are ours. `description` is the module's docstring, shown by --help as it is."""

  def __init__(self, description: str | None):
    super().__init__(description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)

  def error(self, message: str) -> NoReturn:
    """Raises UserError in place of printing the usage."""
    raise UserError(f"{message}; see --help")


def run(main: Callable[[], Any]) -> None:
  """Runs a command of the project, as `plainly`, with its log shown."""
  show()
  plainly(main)


def plainly(main: Callable[[], Any]) -> None:
  """Runs a command; bad input, and files that cannot be read or written, end with one line and exit code 2."""
  try:
    main()
  except UserError as error:
    _fail(str(error), BAD_INPUT)
  except OSError as error:
    _fail(f"{error.filename or 'a file'}: {error.strerror or error}", BAD_INPUT)
  except KeyboardInterrupt:
    _fail("interrupted", INTERRUPTED)


def _fail(message: str, code: int) -> NoReturn:
  print(f"error: {printable(message)}", file=sys.stderr)
  sys.exit(code)
