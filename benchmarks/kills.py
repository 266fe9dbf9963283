"""Stress test of resumption: runs that are interrupted by random signals must equal an uninterrupted one.

  python -m benchmarks.kills [--signals=50] [--seed=0]
  python -m benchmarks.kills --store=gs|s3 [--signals=5] [--seed=0]

Runs the smoke recipe and sends SIGTERM, SIGKILL, or SIGSTOP and later SIGCONT, in one of the phases start, compile,
step, evaluation, save and report, which are recognised by the output and files of the run. All pairs of signal and
phase are drawn before any is repeated. An interrupted run is resumed, and in half of the cases interrupted again. After
each signal, the newest checkpoint must be readable. A finished run must have parameters, results, metrics and report
bit-identical to the uninterrupted run; then a new run begins. Exits with 0 if all checks pass.

With --store, the runs build their corpus in a bucket of an emulator on localhost, train from it into the bucket, and
receive SIGKILL at random moments, after which their local files are deleted. They are compared with a run on disk.
"""

import argparse
import collections
import json
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import jax
import numpy as np

from benchmarks.training_process import STEPS, Process, launch
from clipvip_jax.runs.checkpoint import read_params
from clipvip_jax.utils.cli import EXIT_TERMINATED
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.progress import format_duration

PHASES = ("start", "compile", "step", "evaluation", "save", "report")
# Signals, and the exit codes of a run that receives one. A run that is ending ignores SIGTERM, and Python's default
# action ends one that has not yet started.
EXIT_CODES = {
  "SIGTERM": (EXIT_TERMINATED, -signal.SIGTERM, 0),
  "SIGKILL": (-signal.SIGKILL, 0),
  "SIGSTOP": (0,),
}
_IDENTICAL_FILES = ("results.json", "metrics.jsonl", "report.html", "tokenizer.json", "config.json", "corpus.json")
_LONGEST_STOP = 3.0  # seconds from SIGSTOP to SIGCONT
_MOST_MISSES = 5  # runs without the phase of a signal, which is then given up


def run(folder: pathlib.Path, cache: pathlib.Path) -> dict[str, float]:
  """Runs to the end without a signal; returns the shortest seconds of each phase. Exits if the run fails."""
  process, entered = launch(folder, cache), time.monotonic()
  seconds, phase = collections.defaultdict(list), "start"
  for observed, _ in process.phases():
    if observed != phase:
      seconds[phase].append(time.monotonic() - entered)
      phase, entered = observed, time.monotonic()
  seconds[phase].append(time.monotonic() - entered)
  if process.popen.returncode:
    sys.exit(process.log.read_text())
  return {phase: min(values) for phase, values in seconds.items()}


def interrupt(process: Process, name: str, phase: str, seconds: float, rng: random.Random) -> str:
  """Sends a signal in a phase that lasts `seconds`, from a random step on and at a random time.

  Returns:
    The phase in which it was sent; "" if the process ended before.
  """
  first_step, delay = rng.randrange(STEPS), rng.uniform(0, 0.5 * seconds)
  for observed, step in process.phases():
    if observed == phase and (phase in ("start", "compile", "report") or step >= first_step):
      time.sleep(delay)
      observed, _ = process.observe()
      if process.popen.poll() is None:
        process.popen.send_signal(signal.Signals[name])
        if name == "SIGSTOP":
          time.sleep(rng.uniform(0, _LONGEST_STOP))
          process.popen.send_signal(signal.SIGCONT)
        return observed
  return ""


def find_faults(process: Process, codes: tuple[int, ...]) -> str:
  """Waits for the end of a process; returns what is wrong with it and its newest checkpoint, "" if nothing."""
  code = process.popen.wait()
  faults = [] if code in codes else [f"exit code {code}"]
  faults += ["traceback"] if "Traceback" in process.log.read_text() else []
  checkpoints = process.folder / "checkpoints"
  steps = [int(path.name) for path in checkpoints.glob("*") if path.name.isdigit()]
  try:
    params = read_params(checkpoints, max(steps))[0] if steps else {}
    faults += [] if all(np.isfinite(x).all() for x in jax.tree.leaves(params)) else ["not finite"]
  except UserError as error:
    faults.append(str(error))
  return ", ".join(faults)


def find_differences(folder: pathlib.Path, uninterrupted: pathlib.Path) -> str:
  """Returns the outputs in which a finished run differs from the uninterrupted one; "" if identical."""
  ours, theirs = (read_params(workdir / "checkpoints", STEPS)[0] for workdir in (folder, uninterrupted))
  equal = jax.tree.map(lambda a, b: bool(np.array_equal(a, b)), ours, theirs)
  different = [] if all(jax.tree.leaves(equal)) else ["parameters"]
  different += [
    name for name in _IDENTICAL_FILES if (folder / name).read_bytes() != (uninterrupted / name).read_bytes()
  ]
  return f"differs in {', '.join(different)}" if different else ""


def draw(count: int, rng: random.Random) -> list[tuple[str, str]]:
  """Returns (signal, phase) pairs in random order: each of all pairs as often as any other, or once more."""
  pairs = [(name, phase) for name in EXIT_CODES for phase in PHASES]
  drawn = pairs * (count // len(pairs)) + rng.sample(pairs, count % len(pairs))
  rng.shuffle(drawn)
  return drawn


def stress(
  folder: pathlib.Path, pairs: list[tuple[str, str]], rng: random.Random, report: Callable[[str, int], None]
) -> tuple[collections.Counter[tuple[str, str]], list[str]]:
  """Interrupts runs with each signal, resumes them, and compares those that finish.

  Returns:
    ({(signal, phase): count}, faults).
  """
  uninterrupted, cache = folder / "uninterrupted", folder / "compiled"
  cold = run(folder / "first", cache)  # fills the cache
  seconds = {**run(uninterrupted, cache), "compile": cold["compile"]}
  different = find_differences(folder / "first", uninterrupted)
  report(f"uninterrupted, {sum(seconds.values()):.0f} s | {different or 'bit-identical twice'}", len(pairs))
  counts: collections.Counter[tuple[str, str]] = collections.Counter()
  misses: collections.Counter[tuple[str, str]] = collections.Counter()
  faults, pairs, number, launches, finished = [different] if different else [], pairs.copy(), 0, 0, True
  while pairs or not finished:
    number += finished
    current = folder / f"run_{number}"
    is_interrupted = bool(pairs) and (finished or rng.random() < 0.5)
    name, phase = pairs.pop() if is_interrupted else ("", "")
    launches += 1
    empty = folder / f"compiled_{launches}"  # what is compiled, and not read from the cache, takes a while
    process = launch(current, empty if phase == "compile" else cache)
    sent = interrupt(process, name, phase, seconds.get(phase, 0.1), rng) if is_interrupted else ""
    fault = find_faults(process, EXIT_CODES[name] if sent else (0,))
    finished = process.popen.returncode == 0
    if is_interrupted and not sent:  # the resumed run had no such phase
      misses[name, phase] += 1
      if misses[name, phase] < _MOST_MISSES:
        pairs.insert(0, (name, phase))
      else:
        faults.append(f"{name} in {phase}: missed {_MOST_MISSES} times")
    if sent:
      counts[name, sent] += 1
    if finished and not fault:
      fault = find_differences(current, uninterrupted)
    outcome = "bit-identical" if finished else "interrupted"
    report(f"run {number} | {f'{name} in {sent}' if sent else 'no signal'} | {fault or outcome}", len(pairs))
    if fault:
      faults.append(f"run {number}: {fault}")
      print(process.log.read_text(), flush=True)
      finished = True
  return counts, faults


def read_results(workdir: pathlib.Path) -> dict:
  """Returns results.json without settings of the machine and paths."""
  content = json.loads((workdir / "results.json").read_text())
  content["config"].pop("host")
  content["config"]["data"].pop("data_dir")
  return content


def find_differences_in_store(folder: pathlib.Path, local: pathlib.Path) -> str:
  """Returns what differs between a copy of a bucket's run, with its corpus, and a local one; "" if nothing."""
  ours, theirs = (read_params(workdir / "checkpoints", STEPS)[0] for workdir in (folder, local))
  checks = {
    "parameters": all(jax.tree.leaves(jax.tree.map(lambda a, b: bool(np.array_equal(a, b)), ours, theirs))),
    "results.json": read_results(folder) == read_results(local),
  }
  corpus = [path.relative_to(local.parent) for path in (local.parent / "corpora").rglob("*.array_record*")]
  pairs = {str(path): (folder.parent / path, local.parent / path) for path in corpus}
  pairs["metrics.jsonl"] = (folder / "metrics.jsonl", local / "metrics.jsonl")
  checks |= {name: a.read_bytes() == b.read_bytes() for name, (a, b) in pairs.items()}
  different = [name for name, is_equal in checks.items() if not is_equal]
  return f"differs in {', '.join(different)}" if different else ""


def stress_store(
  scheme: str, folder: pathlib.Path, kills: int, rng: random.Random, report: Callable[[str, int], None]
) -> list[str]:
  """Kills runs in a bucket at random moments, resumes them, and compares those that finish; returns faults."""
  from tests.support import buckets

  local, cache, faults, finished, number = folder / "uninterrupted", folder / "compiled", [], True, 0
  run(folder / "first", cache)  # fills the cache
  seconds = sum(run(local, cache).values())
  report(f"a run on disk takes {seconds:.0f} s", kills)
  with buckets.fresh(scheme) as bucket:
    while kills or not finished:
      number += finished
      current = folder / f"run_{number}"
      process, moment = launch(current, cache, bucket.url), rng.uniform(0, 3 * seconds)
      try:
        code = process.popen.wait(moment if kills else None)
      except subprocess.TimeoutExpired:
        process.popen.kill()
        code, kills = process.popen.wait(), kills - 1
      shutil.rmtree(current, ignore_errors=True)  # another machine has nothing of it
      log = process.log.read_text()
      fault = "" if code in (0, -signal.SIGKILL) and "Traceback" not in log else f"exit code {code}:\n{log}"
      finished = code == 0 or bool(fault)
      if code == 0:
        bucket.download("", folder / "bucket")
        fault = fault or find_differences_in_store(folder / "bucket" / current.name, local)
      steps = re.findall(r"step (\d+)/", log)
      outcome = "bit-identical" if code == 0 else f"killed after {moment:.1f} s, step {steps[-1] if steps else 0}"
      report(f"run {number} | {fault or outcome}", kills)
      faults += [f"run {number}: {fault}"] if fault else []
  return faults


def main() -> None:
  """Interrupts, resumes and compares; prints a table."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--signals", type=int, help="default: 50; with --store, 5")
  parser.add_argument("--store", choices=("gs", "s3"), help="kill runs in a bucket of this kind")
  parser.add_argument("--seed", type=int, default=0, help="seed of signals, phases and times")
  options = parser.parse_args()
  options.signals = options.signals or (5 if options.store else 50)
  rng = random.Random(options.seed)
  started = time.monotonic()

  def report(line: str, to_do: int) -> None:
    done, elapsed = options.signals - to_do, time.monotonic() - started
    left = f"{format_duration(elapsed / done * to_do)} left" if done else "..."
    print(f"{done}/{options.signals} | {format_duration(elapsed)}, {left} | {line}", flush=True)

  with tempfile.TemporaryDirectory() as temporary:
    if options.store:
      faults = stress_store(options.store, pathlib.Path(temporary), options.signals, rng, report)
      print(f"{options.signals} kills, {options.store}: {'all checks passed' if not faults else '; '.join(faults)}")
      sys.exit(bool(faults))
    counts, faults = stress(pathlib.Path(temporary), draw(options.signals, rng), rng, report)
  faults += [f"no signal in {phase}" for phase in PHASES if not any(counts[name, phase] for name in EXIT_CODES)]
  print(" " * 10 + "".join(f"{phase:>12}" for phase in PHASES))
  for name in EXIT_CODES:
    print(f"{name:10}" + "".join(f"{counts[name, phase]:12}" for phase in PHASES))
  print(f"{counts.total()} signals: {'all checks passed' if not faults else '; '.join(faults)}")
  sys.exit(bool(faults))


if __name__ == "__main__":
  main()
