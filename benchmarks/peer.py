"""Command of a peer, another implementation that a benchmark compares with."""

import json
import subprocess
from collections.abc import Sequence
from typing import Any


def run_peer(command: Sequence[str]) -> dict[str, Any]:
  """Runs a command and parses its last line of output as JSON.

  Raises:
    subprocess.CalledProcessError: the command fails.
  """
  process = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
  return json.loads(process.stdout.splitlines()[-1])
