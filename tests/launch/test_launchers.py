"""Tests of behaviour shared by all launchers: dry runs, deletion, input validation, documented commands."""

import importlib
import shlex
import shutil
import sys

import pytest
from absl import flags
from stand_ins import GPUS, HOSTILE, ROOT, SLICE, SLURM, TPU, TRAINING, states

from clipvip_jax.utils.cli import EXIT_BAD_INPUT
from launch import common


@pytest.mark.parametrize(
  ("launcher", "options"),
  [
    ("tpu", [*TPU, "--env=A=b c", "--prepare=mount '/a b'"]),
    ("slurm", [*SLURM, "--env=A=b c"]),
    ("kubernetes", GPUS),
    ("kubernetes", SLICE),
  ],
)
def test_dry_run_prints_the_exact_commands_and_runs_nothing(machine, launcher, options):
  arguments = [*options, *TRAINING[:-1], f"--workdir={HOSTILE}"]
  shown = machine.launch(launcher, "--dry-run", *arguments)
  assert shown.returncode == 0, shown.stderr
  assert machine.calls() == []

  machine.answer(states("ABSENT", "READY"))
  done = machine.launch(launcher, *arguments)
  assert done.returncode == 0, done.stderr
  real = machine.calls()
  machine.answer({})
  machine.run([shutil.which("bash"), "-c", shown.stdout])  # the output is a valid shell script
  assert machine.calls() == real != []
  assert not list(machine.folder.parent.rglob("pwned")) and not (ROOT / "pwned").exists()


def test_delete_needs_no_training_flags(machine):
  assert machine.launch("tpu", "--name=vip", "--zone=us-east5-b", "--project=lab", "--delete").returncode == 0
  assert machine.launch("kubernetes", "--name=vip", "--namespace=lab", "--delete").returncode == 0
  assert [arguments for arguments, _ in machine.calls()] == [
    shlex.split("gcloud compute tpus queued-resources delete vip --zone=us-east5-b --project=lab --force --quiet"),
    shlex.split("kubectl delete jobset vip --namespace=lab"),
  ]


@pytest.mark.parametrize(
  ("launcher", "arguments", "message"),
  [
    ("tpu", [*TPU, "--accelerator=v9-8", *TRAINING], "is not an accelerator type; use one of v4-N, v5litepod-N"),
    ("tpu", [*TPU, "--accelerator=v6e-12", *TRAINING], "in v6e-N, N is one of 1, 4, 8, 16, 32"),
    ("tpu", [*TPU, "--accelerator=v5p-200", *TRAINING], "or a multiple of 128 up to 12288"),
    ("tpu", ["--name=vip", "--zone=us-east5-b", *TRAINING], "--accelerator is missing; use one of v4-N"),
    ("tpu", [*TPU, "--zone=us", *TRAINING], "'us' is not a zone; pass a name such as us-east5-b"),
    ("tpu", [*TPU, "--name=My_Run", *TRAINING], "lower-case letters, digits and '-'"),
    ("tpu", [*TPU, f"--name={'a' * 64}", *TRAINING], "at most 63"),
    ("tpu", TPU, "--config is missing after --; add it: -- --config="),
    ("tpu", [*TPU, "--", "--config=configs/post_pretrain.py"], "--workdir is missing after --; add it"),
    ("tpu", [*TPU, "--", "--config=configs/no.py", "--workdir=/a"], "=configs/no.py is neither a file nor the name"),
    ("slurm", [*SLURM, "--", "--config=no:b16", "--workdir=/a"], "--config=no is neither a file nor the name"),
    ("tpu", [*TPU, "--", "--config=tests/support/tiny.py", "--workdir=/a"], "not copied to other machines; use a"),
    ("tpu", [*TPU, "--", "--config=configs/msrvtt.py", "--workdir=runs"], "=runs is not an absolute path; pass the"),
    ("tpu", [*TPU, "--", "--config=configs/msrvtt.py", "--workdir=az://b/r"], "=az://b/r is neither a local path nor"),
    ("tpu", [*TPU, *TRAINING, "--process_id=3"], "--process_id is set by the launcher; remove it"),
    ("tpu", [*TPU, *TRAINING, "--config.a=b\nc"], "contains a line break or another control character; remove it"),
    ("tpu", [*TPU, "--env=1A=b", *TRAINING], "must be NAME=VALUE"),
    ("tpu", [*TPU, "--max_restarts=-1", *TRAINING], "at least 0"),
    ("slurm", [*SLURM, "--nodes=0", *TRAINING], "--nodes: '0' must be an integer of at least 1"),
    ("slurm", [*SLURM, "--gpus=x", *TRAINING], "--gpus: 'x' must be an integer of at least 1"),
    ("slurm", [*SLURM, "--time=soon", *TRAINING], "MINUTES, HOURS:MINUTES:SECONDS"),
    ("slurm", SLURM, "--config is missing after --; add it: -- --config="),
    ("slurm", [*SLURM, "--partitoin=gpu", *TRAINING], "unrecognized arguments: --partitoin=gpu"),
    ("kubernetes", [*GPUS, "--nodes=0", *TRAINING], "at least 1"),
    ("kubernetes", [*GPUS, "--name=1st", *TRAINING], "begin with a letter"),
    ("kubernetes", [*GPUS, f"--name={'a' * 50}", *TRAINING], "too long; shorten it by 5"),
    ("kubernetes", [*GPUS, "--tpu=v6e", *TRAINING], "pass either --tpu and --topology, or --nodes and --gpus"),
    ("kubernetes", [*GPUS, "--claim=disk", *TRAINING], "CLAIM:/FOLDER"),
    ("kubernetes", [*GPUS[:2], *GPUS[3:], *TRAINING], "(none), so it would be lost with the pod; pass --claim="),
    ("kubernetes", [*SLICE, "--topology=3x3", *TRAINING], "3x3 does not exist for --tpu=v6e; use one of 1x1, 2x2"),
    ("kubernetes", [*SLICE, "--tpu=v5p", *TRAINING], "--topology=4x8 does not exist for --tpu=v5p; use one of 2x2x1"),
    ("kubernetes", ["--name=vip", *GPUS[2:], *TRAINING], "--image is missing; pass REGISTRY/NAME:TAG"),
  ],
)  # fmt: skip
def test_invalid_input_is_rejected_in_one_line_before_any_command(machine, launcher, arguments, message):
  done = machine.launch(launcher, *arguments)
  assert done.returncode == EXIT_BAD_INPUT, done.stdout
  assert done.stderr.startswith("error: ") and message in done.stderr and done.stderr.count("\n") == 1
  assert machine.calls() == []


@pytest.mark.parametrize(
  ("launcher", "options", "tool"), [("tpu", TPU, "gcloud"), ("slurm", SLURM, "sbatch"), ("kubernetes", GPUS, "kubectl")]
)
def test_missing_tool_is_reported(machine, launcher, options, tool):
  (machine.folder / tool).unlink()
  done = machine.launch(launcher, *options, *TRAINING)
  assert done.returncode == EXIT_BAD_INPUT and f"error: {tool} is not installed, or not on PATH" in done.stderr
  assert machine.calls() == []


def test_documented_commands_pass_validation(machine):
  blocks = (ROOT / "docs" / "scale.md").read_text().replace("\\\n", " ").splitlines()
  commands = [shlex.split(line)[2:] for line in blocks if line.startswith("    python -m launch.")]
  assert {module for module, *_ in commands} == {"launch.tpu", "launch.slurm", "launch.kubernetes"}
  for module, *arguments in commands:
    done = machine.run([sys.executable, "-m", module, "--dry-run", *arguments])
    assert done.returncode == 0, done.stderr


def test_reserved_flags_exist_in_the_training_command():
  importlib.import_module("clipvip_jax.main")  # defines the flags
  assert set(common.LAUNCHER_FLAGS) <= {*flags.FLAGS, "nodistributed"}
