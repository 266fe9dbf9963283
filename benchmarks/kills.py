"""Whether a run that is killed at any moment, again and again, ends as an unbroken one.

  python -m benchmarks.kills [--kills=30] [--seed=0] [--steps=200] [--longest=30]

Runs the smoke recipe with a checkpoint every fifth step and kills it with SIGKILL after random times of up to --longest
seconds, which begin before JAX is imported. After each kill the newest checkpoint must be readable; a run that comes to
its end must have the parameters, the results and the metrics of the unbroken one, bit for bit, and the next kills are
of another run. Prints a line a kill; exit code 0: all held.
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
_SAME = ("results.json", "metrics.jsonl", "report.html", "tokenizer.json")


def command(folder: pathlib.Path, steps: int) -> list[str]:
  """A run in `folder`; its corpus and compiled programs are its siblings'."""
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
  """(exit code, what it printed) of a run that is killed after so many seconds, if it has not ended."""
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
  """The newest checkpoint's step, or what is wrong with it."""
  steps = [int(path.name) for path in (folder / "checkpoints").glob("*") if path.name.isdigit()]
  if not steps:
    return "none yet"
  try:
    params, step = read_params(folder / "checkpoints", max(steps))
  except UserError as error:
    return f"BROKEN: {error}"
  return str(step) if all(np.isfinite(x).all() for x in jax.tree.leaves(params)) else "BROKEN: not finite"


def difference(folder: pathlib.Path, unbroken: pathlib.Path, steps: int) -> str:
  """In what a finished run differs from the unbroken one; "": in nothing."""
  ours, theirs = (read_params(one / "checkpoints", steps)[0] for one in (folder, unbroken))
  equal = jax.tree.map(lambda a, b: bool(np.array_equal(a, b)), ours, theirs)
  wrong = [] if all(jax.tree.leaves(equal)) else ["parameters"]
  wrong += [name for name in _SAME if (folder / name).read_bytes() != (unbroken / name).read_bytes()]
  return ", ".join(wrong)


def main() -> None:
  """Runs, kills, compares."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--kills", type=int, default=30)
  parser.add_argument("--seed", type=int, default=0, help="of the moments")
  parser.add_argument("--steps", type=int, default=200)
  parser.add_argument("--longest", type=float, default=30.0, help="seconds that a run is left alone")
  options = parser.parse_args()
  moments = random.Random(options.seed)
  with tempfile.TemporaryDirectory() as temporary:
    unbroken = pathlib.Path(temporary, "unbroken")
    started = time.monotonic()
    code, output = run(unbroken, options.steps)
    if code:
      sys.exit(output)
    print(f"unbroken: {time.monotonic() - started:.0f} s")
    failures, kills, number = [], 0, 0
    while kills < options.kills or code != 0:
      folder = pathlib.Path(temporary, f"killed_{number}")
      seconds = moments.uniform(0, options.longest) if kills < options.kills else None
      code, output = run(folder, options.steps, seconds)
      if code == -signal.SIGKILL and seconds is not None:
        kills += 1
        found = newest(folder)
        print(f"kill {kills:3d} | run {number} | after {seconds:5.1f} s | newest checkpoint {found}", flush=True)
        failures += [found] if found.startswith("BROKEN") else []
      elif code == 0:
        found = difference(folder, unbroken, options.steps)
        print(f"run {number} ended | {f'DIFFERS in {found}' if found else 'equal bit for bit'}", flush=True)
        failures += [found] if found else []
        number += 1
      else:
        failures.append(f"exit code {code}")
        print(f"run {number} FAILED with exit code {code}:\n{output}")
        break
  print(f"{kills} kills, {number} runs: {'all held' if not failures else '; '.join(failures)}")
  sys.exit(bool(failures))


if __name__ == "__main__":
  main()
