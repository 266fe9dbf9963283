"""What the command lines share: flags, one line for bad input, exit codes."""

import sys
from collections.abc import Callable

from absl import app, flags

from clipvip_jax.errors import UserError
from clipvip_jax.log import show

BAD_INPUT = 2


def parse_flags(argv: list[str]) -> list[str]:
  """absl's parser, whose errors become ours.

  Raises:
    UserError: a flag that does not exist, or a value that it cannot have.
  """
  try:
    return flags.FLAGS(argv)
  except flags.Error as error:
    raise UserError((str(error).strip() or repr(error)).splitlines()[-1]) from error


def run(main: Callable[[list[str]], None], parser: Callable[[list[str]], list[str]] = parse_flags) -> None:
  """Runs a command; bad input ends with one line and exit code 2."""
  show()
  try:
    app.run(main, flags_parser=parser)
  except UserError as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(BAD_INPUT)
