"""Argument parser, exit codes and error reporting shared by all commands."""

import argparse
import atexit
import errno
import os
import pathlib
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import NoReturn

from clipvip_jax.utils import signals, storage
from clipvip_jax.utils.atomic_write import disk_error_reason
from clipvip_jax.utils.compiled_programs import keep_compiled_programs, report_cache_errors
from clipvip_jax.utils.errors import TOO_MANY_FILES, Terminated, UserError, first_line
from clipvip_jax.utils.local_paths import expand_user
from clipvip_jax.utils.log import (
  configure_logging,
  discard_output,
  flush_output,
  is_output_closed,
  log,
  open_standard_streams,
  print_error,
  printable,
)

EXIT_FAILURE = 1  # a bug: an exception with its traceback
EXIT_BAD_INPUT = 2  # an error that the user can fix, in one line
EXIT_HUNG = 75  # the watchdog ended a run without progress or with a dead peer process (EX_TEMPFAIL of sysexits.h)
EXIT_INTERRUPTED = 130  # Ctrl-C: 128 + SIGINT
EXIT_BROKEN_PIPE = 141  # the reader of the output, as head, has ended: 128 + SIGPIPE
EXIT_TERMINATED = 143  # SIGTERM; what was done is saved: 128 + SIGTERM
# After these the same command resumes the run, so launchers restart it.
RESTART_EXIT_CODES = (EXIT_HUNG, EXIT_TERMINATED)


class Parser(argparse.ArgumentParser):
  """ArgumentParser that raises UserError and shows `description`, a module's docstring, unchanged in --help."""

  def __init__(self, description: str | None):
    super().__init__(description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)

  def parse_known_args(self, args=None, namespace=None):
    """Expands ~ as `expand_home` does, then parses."""
    return super().parse_known_args(expand_home(sys.argv[1:] if args is None else args), namespace)

  def error(self, message: str) -> NoReturn:
    """Raises UserError instead of printing the usage and exiting."""
    raise UserError(f"{message}; see --help")


def path_argument(flag: str) -> Callable[[str], pathlib.PurePath]:
  """Returns a type of arguments: a local path, or an address in a bucket, which `storage.check_path` checks."""

  def parse(text: str) -> pathlib.PurePath:
    storage.check_path(text, flag)
    return storage.absolute(text) if storage.is_remote(text) else pathlib.Path(text)

  return parse


def expand_home(args: Sequence[str]) -> list[str]:
  """Expands ~ and ~USER at the start of arguments and of values, as in --workdir=~/run, which shells do not expand."""
  pattern = re.compile(r"(--[\w.]+=|)(~.*)", re.DOTALL)
  matches = [pattern.fullmatch(arg) for arg in args]
  return [m[1] + expand_user(m[2]) if m else arg for m, arg in zip(matches, args, strict=True)]


def run_command(main: Callable[[], object], *, keep_compiled: bool = False) -> None:
  """Configures logging and signals, then runs a command as `exit_on_error` does. Expands ~ in its arguments.

  Output that cannot be written, as to a full disk, makes a success EXIT_BAD_INPUT: what was printed is incomplete.

  Args:
    main: the command.
    keep_compiled: whether its programs are kept in the user's cache folder; see `keep_compiled_programs`.
  """
  open_standard_streams()
  configure_logging()
  if keep_compiled:
    keep_compiled_programs()
  report_cache_errors()
  sys.argv[1:] = expand_home(sys.argv[1:])
  signals.install()
  try:
    exit_on_error(main)
  except SystemExit as end:
    if signals.received() and isinstance(end.code, int):
      _end_process(end.code)
    if end.code:
      raise
  finally:
    signals.ignore()  # the exit code is decided
    error = flush_output(sys.stdout)
    flush_output(sys.stderr)
  check_output(error)


def check_output(error: OSError | None) -> None:
  """Ends a command that succeeded, but for an error of `flush_output`: exits with EXIT_BAD_INPUT and one line."""
  if error is not None and not isinstance(error, BrokenPipeError):
    code = report_error(OSError(error.errno, error.strerror, "standard output"))
    flush_output(sys.stderr)
    sys.exit(code)


def _end_process(code: int) -> NoReturn:
  """Ends the process without the deletion of objects: after a signal within a compilation, that of JAX's may crash."""
  signals.ignore()
  flush_output(sys.stdout)
  atexit._run_exitfuncs()  # ends worker processes and threads
  os._exit(code)


def exit_on_error(main: Callable[[], object]) -> None:
  """Runs a command. Bad input, files that cannot be read or written, and signals exit with one line."""
  try:
    main()
  except Terminated as stop:
    log.info("%s", stop)
    sys.exit(stop.exit_code)
  except BrokenPipeError as error:
    if is_output_closed():
      discard_output(sys.stdout)
      sys.exit(EXIT_BROKEN_PIPE)
    sys.exit(report_error(error))
  except (UserError, OSError, KeyboardInterrupt) as error:
    sys.exit(report_error(error))
  except Exception as error:
    if not _describe_condition(error):
      raise
    sys.exit(report_error(error))


def report_error(error: BaseException) -> int:
  """Prints an error to standard error: one line if the user can fix it, else the traceback.

  Returns:
    The exit code for this kind of error.
  """
  code = EXIT_BAD_INPUT
  if isinstance(error, UserError):
    message = str(error)
  elif message := _describe_condition(error):
    pass
  elif isinstance(error, OSError):
    message = f"{error.filename or 'a file'}: {error.strerror or error}"
  elif isinstance(error, KeyboardInterrupt):
    message, code = "interrupted", EXIT_INTERRUPTED
  else:
    print_error("".join(traceback.format_exception(error)).rstrip())
    return EXIT_FAILURE
  print_error(f"error: {printable(message)}")
  return code


def _describe_condition(error: BaseException | None) -> str:
  """Returns what to do about a condition of the machine that caused an error; "" for any other error.

  Libraries report these in errors of many types, as causes of others.
  """
  if reason := disk_error_reason(error):
    name = getattr(error, "filename", None) or "a file, or standard output"
    return f"{name}: {reason}; check space, quota and permissions of the disk, then run the same command again"
  while error is not None:
    text = first_line(error)
    is_limit = isinstance(error, OSError) and error.errno in TOO_MANY_FILES
    if is_limit or os.strerror(errno.EMFILE) in text:
      return f"{text}; raise the limit with ulimit -n, or use fewer workers (host.num_workers)"
    if isinstance(error, FileNotFoundError) and "temporary directory" in text:  # of `tempfile`, which tries to write
      return f"{error.strerror}; free space in one of them, or set TMPDIR to a folder that can be written"
    frames = traceback.extract_tb(error.__traceback__)
    if frames and frames[-1].name in ("backends", "_get_backend_uncached") and "jax" in frames[-1].filename:
      platforms = os.environ.get("JAX_PLATFORMS", "")
      return f"JAX cannot use JAX_PLATFORMS={platforms} ({text}); unset it, or install JAX and drivers for that device"
    if isinstance(error, UnicodeEncodeError) and error.reason == "surrogates not allowed":
      return f"{error.object!r} is not valid UTF-8 in this locale; set PYTHONUTF8=1, or rename it"
    error = error.__cause__ or error.__context__
  return ""


def check_ranges(options: argparse.Namespace, limits: Sequence[tuple[str, float, float]]) -> None:
  """Checks numbers of a command line.

  Args:
    options: the parsed options.
    limits: name, smallest and largest value of each.

  Raises:
    UserError: a value is out of its range.
  """
  for name, low, high in limits:
    if not low <= getattr(options, name) <= high:
      raise UserError(f"--{name}={getattr(options, name)} is out of range; use {low:g} to {high:g}")
