"""What all launchers do alike: dry runs, deletion, bad input, what the documentation shows."""

import shlex
import shutil
import sys

import pytest
from absl import flags
from stand_ins import GPUS, HOSTILE, ROOT, SLICE, SLURM, TPU, TRAINING, states

from clipvip_jax import main as training
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
def test_a_dry_run_runs_nothing_and_shows_what_a_run_would_do(machine, launcher, options):
  arguments = [*options, *TRAINING[:-1], f"--workdir={HOSTILE}"]
  shown = machine.launch(launcher, "--dry-run", *arguments)
  assert shown.returncode == 0, shown.stderr
  assert machine.calls() == []

  machine.answer(states("ABSENT", "READY"))
  done = machine.launch(launcher, *arguments)
  assert done.returncode == 0, done.stderr
  real = machine.calls()
  machine.answer({})
  machine.run([shutil.which("bash"), "-c", shown.stdout])  # what is shown can be pasted
  assert machine.calls() == real != []
  assert not list(machine.folder.parent.rglob("pwned")) and not (ROOT / "pwned").exists()


def test_delete_needs_no_run(machine):
  assert machine.launch("tpu", "--name=vip", "--zone=us-east5-b", "--project=lab", "--delete").returncode == 0
  assert machine.launch("kubernetes", "--name=vip", "--namespace=lab", "--delete").returncode == 0
  assert [arguments for arguments, _ in machine.calls()] == [
    shlex.split("gcloud compute tpus queued-resources delete vip --zone=us-east5-b --project=lab --force --quiet"),
    shlex.split("kubectl delete jobset vip --namespace=lab"),
  ]


@pytest.mark.parametrize(
  ("launcher", "arguments", "words"),
  [
    ("tpu", [*TPU, "--accelerator=v9-8", *TRAINING], "there are v4-N, v5litepod-N, v5p-N, v6e-N"),
    ("tpu", [*TPU, "--accelerator=v6e-12", *TRAINING], "v6e-N has an N of 1, 4, 8, 16, 32"),
    ("tpu", [*TPU, "--accelerator=v5p-200", *TRAINING], "multiples of 128 up to 12288"),
    ("tpu", ["--name=vip", "--zone=us-east5-b", *TRAINING], "--accelerator is missing"),
    ("tpu", [*TPU, "--zone=us", *TRAINING], "is no zone, as in us-east5-b"),
    ("tpu", [*TPU, "--name=My_Run", *TRAINING], "lower-case letters, digits and '-'"),
    ("tpu", [*TPU, f"--name={'a' * 64}", *TRAINING], "at most 63"),
    ("tpu", TPU, "--config is missing behind --"),
    ("tpu", [*TPU, "--", "--config=configs/post_pretrain.py"], "--workdir is missing behind --"),
    ("tpu", [*TPU, "--", "--config=configs/no.py", "--workdir=/a"], "no recipe 'configs/no.py'; there are: conf"),
    ("tpu", [*TPU, "--", "--config=tests/support/tiny.py", "--workdir=/a"], "only recipes in configs/ travel"),
    ("tpu", [*TPU, "--", "--config=configs/msrvtt.py", "--workdir=runs"], "must be a whole path"),
    ("tpu", [*TPU, "--", "--config=configs/msrvtt.py", "--workdir=gs://b/r"], "mount the bucket"),
    ("tpu", [*TPU, *TRAINING, "--process_id=3"], "--process_id is given by the launcher"),
    ("tpu", [*TPU, *TRAINING, "--config.a=b\nc"], "line break"),
    ("tpu", [*TPU, "--env=1A=b", *TRAINING], "must be NAME=VALUE"),
    ("tpu", [*TPU, "--max_restarts=-1", *TRAINING], "at least 0"),
    ("slurm", [*SLURM, "--nodes=0", *TRAINING], "--nodes: '0' must be a whole number of at least 1"),
    ("slurm", [*SLURM, "--gpus=x", *TRAINING], "--gpus: 'x' must be a whole number"),
    ("slurm", [*SLURM, "--time=soon", *TRAINING], "MINUTES, HOURS:MINUTES:SECONDS"),
    ("slurm", SLURM, "--config is missing behind --"),
    ("slurm", [*SLURM, "--partitoin=gpu", *TRAINING], "unrecognized arguments: --partitoin=gpu"),
    ("kubernetes", [*GPUS, "--nodes=0", *TRAINING], "at least 1"),
    ("kubernetes", [*GPUS, "--name=1st", *TRAINING], "begin with a letter"),
    ("kubernetes", [*GPUS, f"--name={'a' * 50}", *TRAINING], "letters too long"),
    ("kubernetes", [*GPUS, "--tpu=v6e", *TRAINING], "either --tpu and --topology, or --nodes and --gpus"),
    ("kubernetes", [*GPUS, "--claim=disk", *TRAINING], "CLAIM:/FOLDER"),
    ("kubernetes", [*GPUS[:2], *GPUS[3:], *TRAINING], "lies in no --claim"),
    ("kubernetes", [*SLICE, "--topology=3x3", *TRAINING], "none of v6e; there are 1x1, 2x2"),
    ("kubernetes", [*SLICE, "--tpu=v5p", *TRAINING], "none of v5p; there are 2x2x1"),
    ("kubernetes", ["--name=vip", *GPUS[2:], *TRAINING], "--image is missing"),
  ],
)  # fmt: skip
def test_bad_input_is_refused_in_one_line_before_anything_runs(machine, launcher, arguments, words):
  done = machine.launch(launcher, *arguments)
  assert done.returncode == EXIT_BAD_INPUT, done.stdout
  assert done.stderr.startswith("error: ") and words in done.stderr and done.stderr.count("\n") == 1
  assert machine.calls() == []


@pytest.mark.parametrize(
  ("launcher", "options", "tool"), [("tpu", TPU, "gcloud"), ("slurm", SLURM, "sbatch"), ("kubernetes", GPUS, "kubectl")]
)
def test_a_missing_tool_is_named(machine, launcher, options, tool):
  (machine.folder / tool).unlink()
  done = machine.launch(launcher, *options, *TRAINING)
  assert done.returncode == EXIT_BAD_INPUT and f"error: {tool} is not installed, or not on PATH" in done.stderr
  assert machine.calls() == []


def test_what_the_documentation_shows_works(machine):
  blocks = (ROOT / "docs" / "scale.md").read_text().replace("\\\n", " ").splitlines()
  shown = [shlex.split(line)[2:] for line in blocks if line.startswith("    python -m launch.")]
  assert {module for module, *_ in shown} == {"launch.tpu", "launch.slurm", "launch.kubernetes"}
  for module, *arguments in shown:
    done = machine.run([sys.executable, "-m", module, "--dry-run", *arguments])
    assert done.returncode == 0, done.stderr


def test_what_launchers_give_are_options_of_a_run():
  assert set(common._OURS) <= {*flags.FLAGS, "nodistributed"}
  assert training._DISTRIBUTED.name == "distributed"
