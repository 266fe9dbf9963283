"""Command of a peer, another implementation that a benchmark compares with."""

import json
import os
import signal
import subprocess
from collections.abc import Sequence
from typing import Any

from clipvip_jax.utils.log import printable

_LINE = 300  # characters of an error


def run_peer(command: Sequence[str], timeout: float | None = None) -> dict[str, Any]:
  """Runs a command and parses its last line of output as JSON.

  Args:
    command: program and arguments.
    timeout: seconds after which the command and the processes that it started are killed; None: no limit.

  Raises:
    TimeoutError: it did not end in time.
    RuntimeError: it failed, or printed no JSON; the message is its exit code and last line of errors.
  """
  process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
  try:
    output, errors = process.communicate(timeout=timeout)
  except subprocess.TimeoutExpired:
    raise TimeoutError from None
  finally:
    if process.poll() is None:
      os.killpg(process.pid, signal.SIGKILL)
      process.wait()
  if process.returncode:
    reason = (errors.strip() or output.strip() or "without a message").splitlines()[-1]
    raise RuntimeError(f"{command[0]} ended with code {process.returncode}: {printable(reason, _LINE)}")
  try:
    return dict(json.loads(output.splitlines()[-1]))
  except (IndexError, ValueError, TypeError):
    raise RuntimeError(f"{command[0]} printed no JSON: {printable(output[-_LINE:])}") from None
