"""Tests of requests, preemption, restarts and connection failures of TPU slices, with a fake gcloud."""

import os
import signal
import subprocess
import sys

import pytest
from processes import prepared
from stand_ins import GONE, REQUEST, ROOT, STAND_IN, TPU, TRAINING, runs, states
from waiting import wait_until

from clipvip_jax.utils.cli import EXIT_BAD_INPUT, EXIT_TERMINATED
from launch import tpu


def test_requests_a_slice_and_restarts_the_run_until_it_finishes(machine):
  machine.answer(
    states("ABSENT", "WAITING_FOR_RESOURCES", "PROVISIONING", "READY", "READY") | runs(0, EXIT_TERMINATED, 0)
  )
  done = machine.launch("tpu", *TPU, "--spot", "--extra=--network=lab", *TRAINING)
  assert done.returncode == 0, done.stderr
  state_requests = ["describe"] * 4  # waiting, provisioning, active, machines ready
  assert machine.verbs() == [
    "describe", "create", *state_requests, "scp", "ssh", "ssh 1", "describe", "describe", "ssh 2"
  ]  # fmt: skip
  create = next(arguments for arguments, _ in machine.calls() if "create" in arguments)
  for option in ("--accelerator-type=v6e-32", "--runtime-version=v2-alpha-tpuv6e", "--node-id=vip", "--spot"):
    assert option in create
  assert "--network=lab" in create and "--zone=us-east5-b" in create
  assert "vip is PROVISIONING" in done.stdout and "costs money; delete it with: python -m launch.tpu" in done.stdout
  assert all("--worker=all" in arguments for arguments, _ in machine.calls() if "ssh" in arguments)


@pytest.mark.parametrize("state", ["SUSPENDED", "PREEMPTED"])
def test_requests_a_preempted_slice_again(machine, state):
  machine.answer(states("READY", state, state, "ABSENT", "READY") | runs(0, 255, 0, 0))
  done = machine.launch("tpu", *TPU, "--delete_after", *TRAINING)
  assert done.returncode == 0, done.stderr
  verbs = [verb for verb in machine.verbs() if verb != "describe"]
  assert verbs == ["scp", "ssh", "ssh 1", "delete", "create", "scp", "ssh", "ssh 2", "delete"]
  assert f"the slice was preempted ({state})" in done.stdout


def test_waits_for_machines_under_repair_without_deleting_the_slice(machine):
  machine.answer(states("REPAIRING", "REPAIRING", "READY") | runs(0, 0))
  assert machine.launch("tpu", *TPU, *TRAINING).returncode == 0
  assert [verb for verb in machine.verbs() if verb != "describe"] == ["scp", "ssh", "ssh 1"]


@pytest.mark.parametrize(("codes", "phase"), [((0, 3), "the run"), ((3,), "installation")])
def test_failure_stops_the_launcher_with_its_exit_code(machine, codes, phase):
  machine.answer(states("READY", "READY") | runs(*codes))
  done = machine.launch("tpu", *TPU, *TRAINING)
  assert done.returncode == 3
  assert f"error: {phase} failed with exit code 3; see its output above" in done.stderr
  assert [verb for verb in machine.verbs() if verb != "describe"] == ["scp", "ssh", "ssh 1"][: 1 + len(codes)]


def test_requests_a_slice_again_if_preempted_during_installation(machine):
  machine.answer(states("READY", "SUSPENDED", "SUSPENDED", "ABSENT", "READY") | runs(255, 0, 0))
  assert machine.launch("tpu", *TPU, *TRAINING).returncode == 0
  verbs = [verb for verb in machine.verbs() if verb != "describe"]
  assert verbs == ["scp", "ssh", "delete", "create", "scp", "ssh", "ssh 2"]


def test_attaches_to_the_same_start_after_a_lost_connection(machine):
  answers = states("READY", "READY", "READY") | runs(0, 255, EXIT_TERMINATED, 0)
  answers[REQUEST][1:1] = [[1, "", "ERROR: no network"]] * 2
  machine.answer(answers)
  assert machine.launch("tpu", *TPU, *TRAINING).returncode == 0
  assert [verb for verb in machine.verbs() if verb.startswith("ssh ")] == ["ssh 1", "ssh 1", "ssh 2"]


@pytest.mark.parametrize(
  ("answers", "message"),
  [
    (states("ABSENT", "FAILED"), "the request for --name=vip failed; see: gcloud"),
    (
      {REQUEST: [[1, "", "ERROR: PERMISSION_DENIED"]]},
      "--name=vip (ERROR: PERMISSION_DENIED); check gcloud's login",
    ),
    (
      {REQUEST: [GONE], "gcloud queued-resources create": [[1, "", "quota"]]},
      "failed with exit code 1; see its output above",
    ),
  ],
)
def test_gcloud_failure_is_reported_in_one_line(machine, answers, message):
  machine.answer(answers)
  done = machine.launch("tpu", *TPU, "--max_restarts=2", *TRAINING)
  assert done.returncode == EXIT_BAD_INPUT
  assert message in next(line for line in done.stderr.splitlines() if line.startswith("error: "))
  assert not [verb for verb in machine.verbs() if verb.startswith("ssh ")]


def test_delete_after_deletes_the_slice_at_max_restarts(machine):
  machine.answer(states(*["READY"] * 9) | runs(0, *[EXIT_TERMINATED] * 9))
  done = machine.launch("tpu", *TPU, "--max_restarts=2", "--delete_after", *TRAINING)
  assert done.returncode == EXIT_TERMINATED
  assert "error: reached --max_restarts=2; repeat the command to resume" in done.stderr
  assert [verb for verb in machine.verbs() if verb != "describe"][-4:] == ["ssh 1", "ssh 2", "ssh 3", "delete"]


def test_reconnecting_does_not_count_as_a_restart(machine):
  machine.answer(states(*["READY"] * 9) | runs(0, 255, 255, 255, EXIT_TERMINATED, 255, 0))
  done = machine.launch("tpu", *TPU, "--max_restarts=1", *TRAINING)
  assert done.returncode == 0, done.stderr
  starts = [verb for verb in machine.verbs() if verb.startswith("ssh ")]
  assert starts == ["ssh 1"] * 4 + ["ssh 2"] * 2


def test_run_continues_after_ctrl_c(machine):
  machine.answer(states("READY"))
  waiting = machine.folder / "waiting"
  wait = f"""if "launch.worker" in sys.argv[-1]:
  import time
  pathlib.Path({str(waiting)!r}).touch()
  time.sleep(60)
print(out)"""
  (machine.folder / "gcloud").write_text(STAND_IN.replace("print(out)", wait))
  # Background jobs of a shell ignore SIGINT, and their children inherit that.
  handle_ctrl_c = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_DFL)"
  launcher = subprocess.Popen(
    prepared(handle_ctrl_c, sys.executable, "-m", "launch.tpu", *TPU, *TRAINING),
    cwd=ROOT,
    env={"PATH": str(machine.folder)},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    start_new_session=True,
  )
  wait_until(waiting.exists, launcher)
  os.killpg(launcher.pid, signal.SIGINT)
  output, errors = launcher.communicate(timeout=30)
  assert launcher.returncode == 130 and "error: interrupted" in errors
  assert (
    "The run continues. Repeat the command to attach to it" in output
    and "--name=vip --zone=us-east5-b --delete" in output
  )


@pytest.mark.parametrize("name", ["v4-8", "v5litepod-256", "v5p-64", "v5p-384", "v6e-1"])
def test_known_accelerators_are_accepted(name):
  assert tpu.accelerator(name) == name
