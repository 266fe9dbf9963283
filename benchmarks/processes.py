"""Whether several processes make the run that one makes, and what becomes of them when one of them dies.

  python -m benchmarks.processes [--processes=4] [--dies=0] [--steps=12]

The smoke recipe in processes of this machine, one CPU device each, which meet on localhost. Process --dies is killed
(SIGKILL) in the middle: every other must end within a minute with exit code 75, and name it. Started again, the run
goes on from its checkpoint and must end with the parameters and metrics of an unbroken one, bit for bit; a run of one
process alone must have its losses to 1e-5. Exit code 0: all held.
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

from benchmarks.kills import ROOT, command
from clipvip_jax.runs.checkpoint import read_params
from clipvip_jax.utils.cli import EXIT_HUNG

_MINUTE = 60
_TOLERANCE = 1e-5  # between one process and several, whose sums have another order


def start(folder: pathlib.Path, count: int, steps: int) -> list[subprocess.Popen]:
  """The processes of a run."""
  with socket.socket() as server:
    server.bind(("localhost", 0))
    port = server.getsockname()[1]
  env = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONUNBUFFERED": "1"}
  joined = [[f"--coordinator=localhost:{port}", f"--num_processes={count}", f"--process_id={i}"] for i in range(count)]
  return [
    subprocess.Popen(
      [*command(folder, steps), "--config.host.log_every=1", *(flags if count > 1 else [])],
      cwd=ROOT,
      env=env,
      text=True,
      stdout=pathlib.Path(f"{folder}.process_{index}.txt").open("a"),
      stderr=subprocess.STDOUT,
    )
    for index, flags in enumerate(joined)
  ]


def said(folder: pathlib.Path, index: int) -> str:
  """What a process has printed."""
  return pathlib.Path(f"{folder}.process_{index}.txt").read_text()


def finish(folder: pathlib.Path, processes: list[subprocess.Popen]) -> None:
  """Waits for a run that must succeed."""
  codes = [process.wait() for process in processes]
  if any(codes):
    sys.exit(f"{folder.name} ended with {codes}:\n{said(folder, 0)}")


def lose(folder: pathlib.Path, count: int, steps: int, dies: int) -> list[str]:
  """Kills one process once there is a checkpoint; what does not hold."""
  processes = start(folder, count, steps)
  while f"step {steps // 2}/" not in said(folder, 0):
    if any(process.poll() is not None for process in processes):
      return [f"it ended before anybody was killed:\n{said(folder, 0)}"]
    time.sleep(0.05)
  processes[dies].kill()
  killed, problems = time.monotonic(), []
  codes = [process.wait() for process in processes]
  seconds = time.monotonic() - killed
  words = f"process {dies} died" if dies else "process 0, the coordinator of this launch"
  others = [index for index in range(count) if index != dies]
  naming = [index for index in others if words in said(folder, index)]
  print(f"process {dies} of {count} killed: exit codes {codes} after {seconds:.0f} s; named by {naming or 'nobody'}")
  problems += [f"{seconds:.0f} s until all had ended"] if seconds > _MINUTE else []
  problems += ["not all others ended with 75"] if {codes[index] for index in others} != {EXIT_HUNG} else []
  problems += [] if codes[dies] == -signal.SIGKILL and naming == others else ["not all others named it"]
  return problems


def losses(folder: pathlib.Path) -> list[float]:
  """Of every logged step."""
  rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
  return [row["loss"] for row in rows if "loss" in row]


def compare(broken: pathlib.Path, whole: pathlib.Path, alone: pathlib.Path, steps: int) -> list[str]:
  """In what the runs differ."""
  ours, theirs = (read_params(one / "checkpoints", steps)[0] for one in (broken, whole))
  same = all(jax.tree.leaves(jax.tree.map(lambda a, b: bool(np.array_equal(a, b)), ours, theirs)))
  same = same and (broken / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
  several, one = np.array(losses(whole)), np.array(losses(alone))
  off = float(np.abs(several / one - 1).max())
  print(
    f"gone on with: {'equal bit for bit' if same else 'DIFFERS'}; off one process by {off:.1e} in {len(one)} losses"
  )
  problems = [] if same else ["the run that lost a process differs from the unbroken one"]
  return problems + ([f"losses are off by {off:.1e}"] if off > _TOLERANCE else [])


def main() -> None:
  """Runs, kills, compares."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--processes", type=int, default=4)
  parser.add_argument("--dies", type=int, default=0, help="the number of the process that is killed")
  parser.add_argument("--steps", type=int, default=12)
  options = parser.parse_args()
  with tempfile.TemporaryDirectory() as temporary:
    alone, whole, broken = (pathlib.Path(temporary, name) for name in ("alone", "whole", "broken"))
    finish(alone, start(alone, 1, options.steps))
    finish(whole, start(whole, options.processes, options.steps))
    problems = lose(broken, options.processes, options.steps, options.dies)
    finish(broken, start(broken, options.processes, options.steps))
    problems += compare(broken, whole, alone, options.steps)
  print("; ".join(problems) or "all held")
  sys.exit(bool(problems))


if __name__ == "__main__":
  main()
