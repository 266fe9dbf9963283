"""The lines that a person reads while a command runs. Libraries' own chatter is kept out of them."""

import logging
import os
import sys

log = logging.getLogger("clipvip_jax")


def show(*, speak: bool = True) -> None:
  """Prints `log` to standard output; only warnings where `speak` is false, as in all but one process of a launch."""
  from absl import logging as absl_logging

  # TensorFlow, which writes TensorBoard's files, speaks of the CPU.
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
  os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
  absl_logging.set_verbosity(absl_logging.WARNING)  # Orbax and TFDS narrate through absl
  handler = logging.StreamHandler(sys.stdout)
  handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
  log.handlers[:] = [handler]
  log.setLevel(logging.INFO if speak else logging.WARNING)
  log.propagate = False
