"""Stress test of multi-process training: equality with one process, and recovery after a process dies.

  python -m benchmarks.processes [--processes=4] [--dies=0] [--steps=12]

Runs the smoke recipe in several processes on localhost, with one CPU device each. Process --dies is killed with SIGKILL
halfway: every other process must report it and exit with code 75 within a minute. The resumed run must have parameters
and metrics bit-identical to an uninterrupted one; the losses of a single-process run must agree to 1e-5. Exits with 0
if all checks pass.
"""

import argparse
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time

import jax
import numpy as np

from benchmarks.training_process import ROOT, command
from clipvip_jax.runs.checkpoint import read_params
from clipvip_jax.utils.cli import EXIT_HUNG

_MINUTE = 60
_TOLERANCE = 1e-5  # relative; several processes sum in another order


def start(folder: pathlib.Path, count: int, steps: int) -> list[subprocess.Popen]:
  """Starts the processes of a run."""
  with socket.socket() as server:
    server.bind(("localhost", 0))
    port = server.getsockname()[1]
  env = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONUNBUFFERED": "1"}
  process_flags = [
    [f"--coordinator=localhost:{port}", f"--num_processes={count}", f"--process_id={i}"] for i in range(count)
  ]
  return [
    subprocess.Popen(
      [*command(folder, steps, steps // 2, 5), *(flags if count > 1 else [])],
      cwd=ROOT,
      env=env,
      text=True,
      stdout=pathlib.Path(f"{folder}.process_{index}.txt").open("a"),
      stderr=subprocess.STDOUT,
    )
    for index, flags in enumerate(process_flags)
  ]


def output_of(folder: pathlib.Path, index: int) -> str:
  """Returns the output of a process."""
  return pathlib.Path(f"{folder}.process_{index}.txt").read_text()


def finish(folder: pathlib.Path, processes: list[subprocess.Popen]) -> None:
  """Waits for all processes of a run; exits if one fails."""
  codes = [process.wait() for process in processes]
  if any(codes):
    sys.exit(f"run {folder.name} failed with exit codes {codes}:\n{output_of(folder, 0)}")


def kill_process(folder: pathlib.Path, count: int, steps: int, dies: int) -> list[str]:
  """Kills one process halfway; returns the violated expectations."""
  processes = start(folder, count, steps)
  while f"step {steps // 2}/" not in output_of(folder, 0):
    if any(process.poll() is not None for process in processes):
      return [f"the run ended before the kill:\n{output_of(folder, 0)}"]
    time.sleep(0.05)
  processes[dies].kill()
  killed, problems = time.monotonic(), []
  codes = [process.wait() for process in processes]
  seconds = time.monotonic() - killed
  message = f"process {dies} died" if dies else "process 0, the coordinator of this launch"
  others = [index for index in range(count) if index != dies]
  reporting = [index for index in others if message in output_of(folder, index)]
  print(
    f"process {dies} of {count} killed: exit codes {codes} after {seconds:.0f} s; reported by {reporting or 'none'}"
  )
  problems += [f"{seconds:.0f} s until all processes exited"] if seconds > _MINUTE else []
  problems += ["not all other processes exited with 75"] if {codes[index] for index in others} != {EXIT_HUNG} else []
  problems += (
    []
    if codes[dies] == -signal.SIGKILL and reporting == others
    else ["not all other processes reported the killed one"]
  )
  return problems


def losses(folder: pathlib.Path) -> list[float]:
  """Returns the loss of every logged step."""
  rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
  return [row["loss"] for row in rows if "loss" in row]


def compare(resumed: pathlib.Path, uninterrupted: pathlib.Path, single: pathlib.Path, steps: int) -> list[str]:
  """Returns the differences between the runs."""
  ours, theirs = (read_params(workdir / "checkpoints", steps)[0] for workdir in (resumed, uninterrupted))
  same = all(jax.tree.leaves(jax.tree.map(lambda a, b: bool(np.array_equal(a, b)), ours, theirs)))
  same = same and (resumed / "metrics.jsonl").read_bytes() == (uninterrupted / "metrics.jsonl").read_bytes()
  several, one = np.array(losses(uninterrupted)), np.array(losses(single))
  error = float(np.abs(several / one - 1).max())
  print(f"resumed run: {'bit-identical' if same else 'DIFFERS'}; relative error to one process {error:.1e}")
  problems = [] if same else ["the resumed run differs from the uninterrupted one"]
  return problems + ([f"losses differ from one process by {error:.1e}"] if error > _TOLERANCE else [])


def main() -> None:
  """Runs, kills, resumes and compares."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--processes", type=int, default=4)
  parser.add_argument("--dies", type=int, default=0, help="index of the process to kill")
  parser.add_argument("--steps", type=int, default=12)
  options = parser.parse_args()
  with tempfile.TemporaryDirectory() as temporary:
    single, uninterrupted, resumed = (pathlib.Path(temporary, name) for name in ("single", "uninterrupted", "resumed"))
    finish(single, start(single, 1, options.steps))
    finish(uninterrupted, start(uninterrupted, options.processes, options.steps))
    problems = kill_process(resumed, options.processes, options.steps, options.dies)
    finish(resumed, start(resumed, options.processes, options.steps))
    problems += compare(resumed, uninterrupted, single, options.steps)
  print("; ".join(problems) or "all checks passed")
  sys.exit(bool(problems))


if __name__ == "__main__":
  main()
