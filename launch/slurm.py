"""Launcher for SLURM: one process per GPU or node; the job saves before its time limit and requeues itself.

  python -m launch.slurm --name=vip --nodes=4 --gpus=8 --time=12:00:00 --extra=--partition=gpu --extra=--account=lab \\
    -- --config=configs/post_pretrain.py:b16 --workdir=/shared/runs/b16 --config.data.data_dir=/shared/corpora

Passes the batch script to sbatch on standard input; --dry-run prints it. The project and this Python must be in folders
that the nodes share. `scancel JOB` cancels the job; `scancel --signal=TERM JOB` saves and requeues it.
"""

import argparse
import re
import shlex
import sys
from collections.abc import Sequence

from clipvip_jax.utils.cli import RESTART_EXIT_CODES, exit_on_error
from launch import common

_REQUEUE = " || ".join(f"code == {code}" for code in RESTART_EXIT_CODES)
# srun returns the highest exit code of its tasks. After one fails, SLURM terminates the others, some with 143. Failures
# are mapped to 255, above all other codes, so that a run that always fails is not requeued endlessly.
_TASK = f"""trap : TERM
"$@"
code=$?
((code == 0 || {_REQUEUE})) && exit "$code"
echo "process $SLURM_PROCID on $(hostname) failed with exit code $code" >&2
exit 255"""


def time_limit(text: str) -> str:
  """Argparse type of SLURM's time formats: MINUTES, [DAYS-]HOURS:MINUTES:SECONDS and their short forms."""
  if not re.fullmatch(r"[0-9]+(-[0-9]+(:[0-9]{1,2}){0,2}|(:[0-9]{1,2}){0,2})", text):
    raise argparse.ArgumentTypeError(f"{text!r} must be MINUTES, HOURS:MINUTES:SECONDS or DAYS-HOURS")
  return text


def script(options: argparse.Namespace, training_args: Sequence[str]) -> str:
  """Returns the batch script. A requeued job executes it again, and training resumes from --workdir."""
  env = dict(options.env)
  if options.processes == "node":
    # By default, JAX under SLURM assigns each process only the GPU with its local index.
    env["JAX_LOCAL_DEVICE_IDS"] = ",".join(map(str, range(options.gpus)))
  step = ["srun", "--kill-on-bad-exit=1", *_cpus(options), "bash", "-c", _TASK, "task"]
  main = [sys.executable, "-m", "clipvip_jax.main", "--distributed", *training_args]
  lines = [
    "#!/usr/bin/env bash",
    f"cd {shlex.quote(str(common.ROOT))} || exit 1",
    *(f"export {name}={shlex.quote(content)}" for name, content in env.items()),
    shlex.join([*step, *main]),
    "code=$?",
    f"if ((({_REQUEUE}) && ${{SLURM_RESTART_COUNT:-0}} < {options.max_restarts})); then",
    '  echo "exit code $code: saved after SIGTERM, hung or lost a peer process; requeueing"',
    '  scontrol requeue "$SLURM_JOB_ID"',
    f"elif (({_REQUEUE})); then",
    f'  echo "exit code $code; reached --max_restarts={options.max_restarts}; submit the job again to resume"',
    "fi",
    'exit "$code"',
  ]
  return "\n".join(lines) + "\n"


def command(options: argparse.Namespace) -> list[str]:
  """Returns the sbatch command line."""
  return [
    "sbatch",
    f"--job-name={options.name}",
    f"--nodes={options.nodes}",
    f"--ntasks-per-node={options.gpus if options.processes == 'gpu' else 1}",
    f"--gpus-per-node={options.gpus}",  # not per task: JAX selects among all GPUs of the node
    *_cpus(options),
    *([f"--time={options.time}"] if options.time else []),
    f"--signal=TERM@{options.grace_seconds}",  # sent to the processes, not to the script
    "--requeue",
    "--open-mode=append",
    *options.extra,
  ]


def _cpus(options: argparse.Namespace) -> list[str]:
  """Returns the flag for sbatch and srun; srun does not inherit it."""
  return [f"--cpus-per-task={options.cpus}"] if options.cpus else []


def main() -> None:
  """Parses options and calls sbatch once."""
  parser = common.parser(__doc__)
  parser.add_argument("--nodes", type=common.at_least(1), required=True, help="number of nodes")
  parser.add_argument("--gpus", type=common.at_least(1), required=True, help="GPUs per node")
  parser.add_argument(
    "--processes", choices=("gpu", "node"), default="gpu", help="one process per GPU or node; default: gpu"
  )
  parser.add_argument("--cpus", type=common.at_least(1), help="CPU cores per process; default: that of SLURM")
  parser.add_argument(
    "--time", type=time_limit, help="time limit of one job, which is requeued and resumes; default: that of SLURM"
  )
  parser.add_argument(
    "--grace_seconds", type=common.at_least(1), default=300, help="seconds from SIGTERM to the time limit; default: 300"
  )
  parser.add_argument(
    "--extra", action="append", default=[], metavar="--FLAG=VALUE", help="flag for sbatch; repeatable"
  )
  options, training_args = common.parse(parser, sys.argv[1:])
  common.check_training(training_args, remote=False)
  shell = common.Shell(dry_run=options.dry_run)
  shell.require("sbatch", "run this on a login node of the cluster")
  shell.run_checked(command(options), text=script(options, training_args))


if __name__ == "__main__":
  exit_on_error(main)
