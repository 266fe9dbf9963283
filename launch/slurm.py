"""Submits a run to SLURM: one process a GPU (or a node), saved before the time limit and queued again.

  python -m launch.slurm --name=vip --nodes=4 --gpus=8 --time=12:00:00 --extra=--partition=gpu --extra=--account=lab \\
    -- --config=configs/post_pretrain.py:b16 --workdir=/shared/runs/b16 --config.data.data_dir=/shared/corpora

The batch script goes to sbatch through standard input; --dry-run shows it. The project and the Python that runs this
must stand in folders that the nodes see as well. `scancel JOB` ends the job; `scancel --signal=TERM JOB` saves and
queues it again.
"""

import argparse
import re
import shlex
import sys
from collections.abc import Sequence

from clipvip_jax.utils.cli import RESTART_EXIT_CODES, exit_on_error
from launch import common

_QUEUE_AGAIN = " || ".join(f"code == {code}" for code in RESTART_EXIT_CODES)
# srun answers with the highest exit code of its tasks. A task that fails makes SLURM end the others, some of them with
# 143, so every failure is turned into one above it: else a run that always fails would be queued again for ever.
_TASK = f"""trap : TERM
"$@"
code=$?
((code == 0 || {_QUEUE_AGAIN})) && exit "$code"
echo "process $SLURM_PROCID on $(hostname) failed with exit code $code" >&2
exit 255"""


def time_limit(text: str) -> str:
  """SLURM's MINUTES, [DAYS-]HOURS:MINUTES:SECONDS and so on; else argparse says what is allowed."""
  if not re.fullmatch(r"[0-9]+(-[0-9]+(:[0-9]{1,2}){0,2}|(:[0-9]{1,2}){0,2})", text):
    raise argparse.ArgumentTypeError(f"{text!r} must be MINUTES, HOURS:MINUTES:SECONDS or DAYS-HOURS")
  return text


def script(options: argparse.Namespace, tail: Sequence[str]) -> str:
  """The batch script. SLURM starts it again as it is, and the run in --workdir goes on."""
  env = dict(options.env)
  if options.processes == "node":
    # Else JAX gives each process under SLURM the one GPU of its number on the node.
    env["JAX_LOCAL_DEVICE_IDS"] = ",".join(map(str, range(options.gpus)))
  step = ["srun", "--kill-on-bad-exit=1", *_cpus(options), "bash", "-c", _TASK, "task"]
  main = [sys.executable, "-m", "clipvip_jax.main", "--distributed", *tail]
  lines = [
    "#!/usr/bin/env bash",
    f"cd {shlex.quote(str(common.ROOT))} || exit 1",
    *(f"export {name}={shlex.quote(content)}" for name, content in env.items()),
    shlex.join([*step, *main]),
    "code=$?",
    f"if ((({_QUEUE_AGAIN}) && ${{SLURM_RESTART_COUNT:-0}} < {options.max_restarts})); then",
    '  echo "exit code $code: saved and ended from outside, or stuck; queued again"',
    '  scontrol requeue "$SLURM_JOB_ID"',
    f"elif (({_QUEUE_AGAIN})); then",
    f'  echo "exit code $code; --max_restarts={options.max_restarts} are used up"',
    "fi",
    'exit "$code"',
  ]
  return "\n".join(lines) + "\n"


def command(options: argparse.Namespace) -> list[str]:
  """sbatch with its options."""
  return [
    "sbatch",
    f"--job-name={options.name}",
    f"--nodes={options.nodes}",
    f"--ntasks-per-node={options.gpus if options.processes == 'gpu' else 1}",
    f"--gpus-per-node={options.gpus}",  # not per task: JAX chooses among all that a node has
    *_cpus(options),
    *([f"--time={options.time}"] if options.time else []),
    f"--signal=TERM@{options.grace_seconds}",  # to the processes, not to the script
    "--requeue",
    "--open-mode=append",
    *options.extra,
  ]


def _cpus(options: argparse.Namespace) -> list[str]:
  """For sbatch and again for srun, which does not inherit it."""
  return [f"--cpus-per-task={options.cpus}"] if options.cpus else []


def main() -> None:
  """Reads options, then one call of sbatch."""
  parser = common.parser(__doc__)
  parser.add_argument("--nodes", type=common.at_least(1), required=True)
  parser.add_argument("--gpus", type=common.at_least(1), required=True, help="of a node")
  parser.add_argument("--processes", choices=("gpu", "node"), default="gpu", help="one process for each")
  parser.add_argument("--cpus", type=common.at_least(1), help="cores of a process, for the loader; default: SLURM's")
  parser.add_argument("--time", type=time_limit, help="limit of one job, after which the next goes on")
  parser.add_argument("--grace_seconds", type=common.at_least(1), default=300, help="for saving, before the limit")
  parser.add_argument("--extra", action="append", default=[], metavar="--FLAG=VALUE", help="of sbatch, as --partition")
  options, tail = common.parse(parser, sys.argv[1:])
  common.check_training(tail, elsewhere=False)
  shell = common.Shell(dry_run=options.dry_run)
  shell.require("sbatch", "run this where jobs are submitted")
  shell.must(command(options), text=script(options, tail))


if __name__ == "__main__":
  exit_on_error(main)
