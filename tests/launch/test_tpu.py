"""TPU slices, their preemption and what else can happen, against a stand-in for gcloud."""

import functools
import os
import signal
import subprocess
import sys
import time

import pytest
from stand_ins import GONE, REQUEST, ROOT, STAND_IN, TPU, TRAINING, runs, states

from clipvip_jax.utils.cli import EXIT_BAD_INPUT, EXIT_TERMINATED
from launch import tpu


def test_a_slice_is_asked_for_and_the_run_restarted_until_it_is_done(machine):
  machine.answer(
    states("ABSENT", "WAITING_FOR_RESOURCES", "PROVISIONING", "READY", "READY") | runs(0, EXIT_TERMINATED, 0)
  )
  done = machine.launch("tpu", *TPU, "--spot", "--extra=--network=lab", *TRAINING)
  assert done.returncode == 0, done.stderr
  looks = ["describe"] * 4  # waiting, provisioning, active, machines ready
  assert machine.verbs() == [
    "describe", "create", *looks, "scp", "ssh", "ssh 1", "describe", "describe", "ssh 2"
  ]  # fmt: skip
  create = next(arguments for arguments, _ in machine.calls() if "create" in arguments)
  for option in ("--accelerator-type=v6e-32", "--runtime-version=v2-alpha-tpuv6e", "--node-id=vip", "--spot"):
    assert option in create
  assert "--network=lab" in create and "--zone=us-east5-b" in create
  assert "vip is PROVISIONING" in done.stdout and "costs money until: python -m launch.tpu" in done.stdout
  assert all("--worker=all" in arguments for arguments, _ in machine.calls() if "ssh" in arguments)


@pytest.mark.parametrize("seen", ["SUSPENDED", "PREEMPTED"])
def test_a_preempted_slice_is_asked_for_again(machine, seen):
  machine.answer(states("READY", seen, seen, "ABSENT", "READY") | runs(0, 255, 0, 0))
  done = machine.launch("tpu", *TPU, "--delete_after", *TRAINING)
  assert done.returncode == 0, done.stderr
  verbs = [verb for verb in machine.verbs() if verb != "describe"]
  assert verbs == ["scp", "ssh", "ssh 1", "delete", "create", "scp", "ssh", "ssh 2", "delete"]
  assert f"the slice was taken away ({seen})" in done.stdout


def test_machines_under_repair_are_waited_for_and_not_given_back(machine):
  machine.answer(states("REPAIRING", "REPAIRING", "READY") | runs(0, 0))
  assert machine.launch("tpu", *TPU, *TRAINING).returncode == 0
  assert [verb for verb in machine.verbs() if verb != "describe"] == ["scp", "ssh", "ssh 1"]


@pytest.mark.parametrize(("codes", "what"), [((0, 3), "the run"), ((3,), "installing")])
def test_what_fails_stops_and_says_so(machine, codes, what):
  machine.answer(states("READY", "READY") | runs(*codes))
  done = machine.launch("tpu", *TPU, *TRAINING)
  assert done.returncode == 3
  assert f"error: {what} failed with exit code 3" in done.stderr
  assert [verb for verb in machine.verbs() if verb != "describe"] == ["scp", "ssh", "ssh 1"][: 1 + len(codes)]


def test_a_slice_that_is_preempted_while_it_is_installed_is_asked_for_again(machine):
  machine.answer(states("READY", "SUSPENDED", "SUSPENDED", "ABSENT", "READY") | runs(255, 0, 0))
  assert machine.launch("tpu", *TPU, *TRAINING).returncode == 0
  verbs = [verb for verb in machine.verbs() if verb != "describe"]
  assert verbs == ["scp", "ssh", "delete", "create", "scp", "ssh", "ssh 2"]


def test_a_lost_connection_goes_back_to_the_same_start(machine):
  answers = states("READY", "READY", "READY") | runs(0, 255, EXIT_TERMINATED, 0)
  answers[REQUEST][1:1] = [[1, "", "ERROR: no network"]] * 2
  machine.answer(answers)
  assert machine.launch("tpu", *TPU, *TRAINING).returncode == 0
  assert [verb for verb in machine.verbs() if verb.startswith("ssh ")] == ["ssh 1", "ssh 1", "ssh 2"]


@pytest.mark.parametrize(
  ("answers", "words"),
  [
    (states("ABSENT", "FAILED"), "the request for vip failed; see: gcloud"),
    ({REQUEST: [[1, "", "ERROR: PERMISSION_DENIED"]]}, "cannot tell the state of vip: ERROR: PERMISSION_DENIED"),
    ({REQUEST: [GONE], "gcloud queued-resources create": [[1, "", "quota"]]}, "ended with exit code 1"),
  ],
)
def test_what_cannot_go_on_is_said_in_one_line(machine, answers, words):
  machine.answer(answers)
  done = machine.launch("tpu", *TPU, "--max_restarts=2", *TRAINING)
  assert done.returncode == EXIT_BAD_INPUT
  assert words in next(line for line in done.stderr.splitlines() if line.startswith("error: "))
  assert not [verb for verb in machine.verbs() if verb.startswith("ssh ")]


def test_where_restarts_are_used_up_the_slice_is_given_back_as_after_any_end(machine):
  machine.answer(states(*["READY"] * 9) | runs(0, *[EXIT_TERMINATED] * 9))
  done = machine.launch("tpu", *TPU, "--max_restarts=2", "--delete_after", *TRAINING)
  assert done.returncode == EXIT_TERMINATED
  assert "error: --max_restarts=2 restarts are used up; the same command goes on" in done.stderr
  assert [verb for verb in machine.verbs() if verb != "describe"][-4:] == ["ssh 1", "ssh 2", "ssh 3", "delete"]


def test_going_back_to_a_run_is_no_restart(machine):
  machine.answer(states(*["READY"] * 9) | runs(0, 255, 255, 255, EXIT_TERMINATED, 255, 0))
  done = machine.launch("tpu", *TPU, "--max_restarts=1", *TRAINING)
  assert done.returncode == 0, done.stderr
  starts = [verb for verb in machine.verbs() if verb.startswith("ssh ")]
  assert starts == ["ssh 1"] * 4 + ["ssh 2"] * 2


def test_ctrl_c_leaves_the_run_alone(machine):
  machine.answer(states("READY"))
  waiting = machine.folder / "waiting"
  wait = f"""if "launch.worker" in sys.argv[-1]:
  import time
  pathlib.Path({str(waiting)!r}).touch()
  time.sleep(60)
print(out)"""
  (machine.folder / "gcloud").write_text(STAND_IN.replace("print(out)", wait))
  launcher = subprocess.Popen(
    [sys.executable, "-m", "launch.tpu", *TPU, *TRAINING],
    cwd=ROOT,
    env={"PATH": str(machine.folder)},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    start_new_session=True,
    # A shell's background job, which these tests may be, ignores Ctrl-C, and so do its children.
    preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
  )
  until = time.monotonic() + 30
  while not waiting.exists() and time.monotonic() < until:
    time.sleep(0.05)
  os.killpg(launcher.pid, signal.SIGINT)
  output, errors = launcher.communicate(timeout=30)
  assert launcher.returncode == 130 and "error: interrupted" in errors
  assert "The run goes on without you" in output and "--name=vip --zone=us-east5-b --delete" in output


@pytest.mark.parametrize("name", ["v4-8", "v5litepod-256", "v5p-64", "v5p-384", "v6e-1"])
def test_accelerators_that_exist(name):
  assert tpu.accelerator(name) == name
