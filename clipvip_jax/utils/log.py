"""The `clipvip_jax` logger, quiet settings for noisy libraries, and safe printing of untrusted text."""

import contextlib
import io
import logging
import os
import pathlib
import re
import select
import sys
from collections.abc import Iterable
from typing import TextIO

from clipvip_jax.utils.atomic_write import disk_error_reason

log = logging.getLogger("clipvip_jax")

# Environment in which libtpu does not query the metadata server and does not warn, on machines without a TPU.
NO_TPU = {"TPU_WORKER_HOSTNAMES": "localhost", "TPU_ACCELERATOR_TYPE": "v5litepod-1"}

# Control characters, line separators, overrides of text direction, and surrogates, which cannot be encoded.
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(value: object, limit: int | None = None) -> str:
  """Returns untrusted text (file names, captions, contents of files) as one line that is safe to print.

  Args:
    value: a string, or anything that is converted to one.
    limit: the most characters to return; longer text is cut and ends with "...".

  Returns:
    The text with control characters escaped, as in "a\\nb".
  """
  text = str(value) if limit is None else str(value)[: limit + 1]
  text = _UNPRINTABLE.sub(lambda match: ascii(match[0])[1:-1], text)
  return text if limit is None or len(text) <= limit else f"{text[: limit - 3]}..."


def list_first(values: Iterable[str], limit: int, separator: str = ", ") -> str:
  """Returns the first `limit` values as one text, and how many there are beyond them, as in "a, b and 3 more"."""
  values = list(values)
  more = f" and {len(values) - limit} more" if len(values) > limit else ""
  return separator.join(values[:limit]) + more


def quiet_libtpu() -> None:
  """Sets NO_TPU if this machine has no TPU. Must be called before JAX initializes its backends."""
  if not any(any(pathlib.Path("/dev").glob(name)) for name in ("accel*", "vfio/*")):  # a TPU's chips
    for name, value in NO_TPU.items():
      os.environ.setdefault(name, value)


def open_standard_streams() -> None:
  """Opens /dev/null in place of standard streams that are closed, as by `>&-`: files would get their numbers."""
  for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
    if getattr(sys, name) is None:
      null = os.open(os.devnull, os.O_RDWR)  # has the lowest free number: that of the stream
      setattr(sys, name, os.fdopen(null, mode, encoding="utf-8", closefd=False))


def is_output_closed() -> bool:
  """Returns whether the reader of standard output, as `head`, has ended."""
  with contextlib.suppress(BrokenPipeError):
    sys.stdout.flush()  # what remains in the buffer of an output that is open
  try:
    descriptor = sys.stdout.fileno()
  except (OSError, ValueError):  # replaced, or closed by this process
    return False
  poll = select.poll()
  poll.register(descriptor, 0)  # errors are always reported
  return bool(poll.poll(0))


def discard_output(stream: TextIO) -> None:
  """Sends standard output or error to /dev/null from now on: its reader, as `head`, has ended, or its disk is full."""
  null = os.open(os.devnull, os.O_WRONLY)
  os.dup2(null, stream.fileno())
  os.close(null)
  # What is left in the buffer would be written to a later file of this number.
  with contextlib.suppress(OSError):
    stream.flush()


def flush_output(stream: TextIO) -> OSError | None:
  """Writes what standard output or error holds. If that is impossible, discards it and returns the error."""
  try:
    stream.flush()
  except OSError as error:
    discard_output(stream)  # otherwise the interpreter fails to write it, with exit code 120
    return error
  return None


def print_error(text: str) -> None:
  """Prints to standard error; a text that cannot be written, as to a full disk, is lost, and changes nothing else."""
  with contextlib.suppress(OSError):
    print(text, file=sys.stderr, flush=True)


class LossyStream(io.TextIOBase):
  """A text stream that loses what another one cannot write, as to a full disk, in place of raising an error."""

  def __init__(self, stream: TextIO):
    super().__init__()
    self._stream = stream

  def fileno(self) -> int:
    return self._stream.fileno()

  def write(self, text: str, /) -> int:
    with contextlib.suppress(OSError):
      self._stream.write(text)
    return len(text)

  def flush(self) -> None:
    with contextlib.suppress(OSError):
      self._stream.flush()


class _OutputHandler(logging.StreamHandler):
  """Handler that says once that the output is closed or its disk full, and continues: a run does not depend on it."""

  _has_warned = False

  def handleError(self, record: logging.LogRecord) -> None:
    error = sys.exc_info()[1]
    if isinstance(error, BrokenPipeError):
      discard_output(sys.stdout)
      print_error("standard output was closed; continuing without it")
    elif not isinstance(error, OSError):
      super().handleError(record)
    elif not self._has_warned:
      self._has_warned = True
      print_error(f"standard output: {error.strerror}; continuing, but lines of the log are lost")


def is_not_disk_error(record: logging.LogRecord) -> bool:
  """Returns False for the traceback of a refused write: Orbax logs one per thread and array, then raises the error."""
  return not (record.exc_info and disk_error_reason(record.exc_info[1]))


def configure_logging(*, warnings_only: bool = False) -> None:
  """Sends `log` to standard output and silences the libraries' own logs.

  Args:
    warnings_only: whether to omit INFO lines, as all processes of a launch but process 0 do.
  """
  from absl import logging as absl_logging

  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # XLA
  os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")  # the input pipeline reports corrupt images itself
  quiet_libtpu()
  # Orbax logs its progress through absl, and TFDS warns about every corpus that does not exist yet.
  absl_logging.set_verbosity(absl_logging.ERROR)
  # Apache Beam lists the absent Google Cloud libraries at every start.
  logging.getLogger().addFilter(lambda record: "apitools" not in record.getMessage())
  if isinstance(sys.stdout, io.TextIOWrapper):
    sys.stdout.reconfigure(errors="backslashreplace")  # file names in a locale that is not UTF-8
  for name in ("absl", "asyncio"):
    logging.getLogger(name).addFilter(is_not_disk_error)
  handler = _OutputHandler(sys.stdout)
  handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
  log.handlers[:] = [handler]
  log.setLevel(logging.WARNING if warnings_only else logging.INFO)
  log.propagate = False
