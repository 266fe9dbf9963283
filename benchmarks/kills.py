"""Stress test of resumption: a run killed at random moments must equal an uninterrupted one.

  python -m benchmarks.kills [--kills=30] [--seed=0] [--steps=200] [--longest=30]

Runs the smoke recipe with a checkpoint every fifth step, kills it with SIGKILL up to --longest seconds after its
process starts, and resumes it. After each kill the newest checkpoint must be readable. A finished run must have
parameters, results and metrics bit-identical to the uninterrupted run; then a new run begins. Prints one line per kill.
Exits with 0 if all checks pass.
"""

import argparse
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

import jax
import numpy as np

from clipvip_jax.runs.checkpoint import read_params
from clipvip_jax.utils.errors import UserError

ROOT = pathlib.Path(__file__).parent.parent
_IDENTICAL_FILES = ("results.json", "metrics.jsonl", "report.html", "tokenizer.json")


def command(folder: pathlib.Path, steps: int) -> list[str]:
  """Returns the training command for workdir `folder`; corpus and compilation cache are shared with its siblings."""
  return [
    sys.executable,
    "-m",
    "clipvip_jax.main",
    "--config=configs/post_pretrain.py:smoke",
    f"--workdir={folder}",
    f"--config.data.data_dir={folder.parent / 'corpora'}",
    f"--config.host.compilation_cache={folder.parent / 'compiled'}",
    f"--config.train.num_steps={steps}",
    f"--config.train.eval_every={steps // 2}",
    "--config.train.checkpoint_every=5",
  ]


def run(folder: pathlib.Path, steps: int, seconds: float | None = None) -> tuple[int, str]:
  """Runs training, killed after `seconds` if still alive; returns (exit code, output)."""
  process = subprocess.Popen(
    command(folder, steps), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=dict(os.environ)
  )
  try:
    output, _ = process.communicate(timeout=seconds)
  except subprocess.TimeoutExpired:
    process.kill()
    output, _ = process.communicate()
  return process.returncode, output


def newest(folder: pathlib.Path) -> str:
  """Returns the step of the newest checkpoint, "none yet", or CORRUPT with the reason."""
  steps = [int(path.name) for path in (folder / "checkpoints").glob("*") if path.name.isdigit()]
  if not steps:
    return "none yet"
  try:
    params, step = read_params(folder / "checkpoints", max(steps))
  except UserError as error:
    return f"CORRUPT: {error}"
  return str(step) if all(np.isfinite(x).all() for x in jax.tree.leaves(params)) else "CORRUPT: not finite"


def difference(folder: pathlib.Path, uninterrupted: pathlib.Path, steps: int) -> str:
  """Returns the outputs in which a finished run differs from the uninterrupted one; "" if identical."""
  ours, theirs = (read_params(workdir / "checkpoints", steps)[0] for workdir in (folder, uninterrupted))
  equal = jax.tree.map(lambda a, b: bool(np.array_equal(a, b)), ours, theirs)
  different = [] if all(jax.tree.leaves(equal)) else ["parameters"]
  different += [
    name for name in _IDENTICAL_FILES if (folder / name).read_bytes() != (uninterrupted / name).read_bytes()
  ]
  return ", ".join(different)


def main() -> None:
  """Runs, kills, resumes and compares."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--kills", type=int, default=30)
  parser.add_argument("--seed", type=int, default=0, help="seed of the random kill times")
  parser.add_argument("--steps", type=int, default=200)
  parser.add_argument("--longest", type=float, default=30.0, help="maximum seconds before a kill")
  options = parser.parse_args()
  rng = random.Random(options.seed)
  with tempfile.TemporaryDirectory() as temporary:
    uninterrupted = pathlib.Path(temporary, "uninterrupted")
    started = time.monotonic()
    code, output = run(uninterrupted, options.steps)
    if code:
      sys.exit(output)
    print(f"uninterrupted: {time.monotonic() - started:.0f} s")
    failures, kills, number = [], 0, 0
    while kills < options.kills or code != 0:
      folder = pathlib.Path(temporary, f"killed_{number}")
      seconds = rng.uniform(0, options.longest) if kills < options.kills else None
      code, output = run(folder, options.steps, seconds)
      if code == -signal.SIGKILL and seconds is not None:
        kills += 1
        status = newest(folder)
        print(f"kill {kills:3d} | run {number} | after {seconds:5.1f} s | newest checkpoint {status}", flush=True)
        failures += [status] if status.startswith("CORRUPT") else []
      elif code == 0:
        different = difference(folder, uninterrupted, options.steps)
        print(f"run {number} finished | {f'DIFFERS in {different}' if different else 'bit-identical'}", flush=True)
        failures += [different] if different else []
        number += 1
      else:
        failures.append(f"exit code {code}")
        print(f"run {number} FAILED with exit code {code}:\n{output}")
        break
  print(f"{kills} kills, {number} runs: {'all checks passed' if not failures else '; '.join(failures)}")
  sys.exit(bool(failures))


if __name__ == "__main__":
  main()
