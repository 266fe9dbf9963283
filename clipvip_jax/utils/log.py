"""The lines that a person reads while a command runs. Libraries' own chatter is kept out of them."""

import logging
import os
import pathlib
import re
import sys

log = logging.getLogger("clipvip_jax")

# What libtpu, the TPU compiler, complains about where there is no TPU and nobody says so.
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


def quiet_libtpu() -> None:
  """Where there is no TPU, says so before JAX looks for one."""
  if not any(any(pathlib.Path("/dev").glob(name)) for name in ("accel*", "vfio/*")):  # a TPU's chips
    for name, value in NO_TPU.items():
      os.environ.setdefault(name, value)


def configure_logging(*, speak: bool = True) -> None:
  """Prints `log` to standard output; only warnings where `speak` is false, as in all but one process of a launch."""
  from absl import logging as absl_logging

  # TensorFlow, which writes TensorBoard's files, speaks of the CPU.
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
  os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
  os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")  # of broken images we speak ourselves
  quiet_libtpu()
  # Orbax and TFDS narrate through absl, and warn of every corpus that is not there yet.
  absl_logging.set_verbosity(absl_logging.ERROR)
  # Apache Beam says at every start which of Google's libraries are absent.
  logging.getLogger().addFilter(lambda record: "apitools" not in record.getMessage())
  handler = logging.StreamHandler(sys.stdout)
  handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
  log.handlers[:] = [handler]
  log.setLevel(logging.INFO if speak else logging.WARNING)
  log.propagate = False
