"""Hung processes and dead peers are ended with a message; slow ones are not."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from clipvip_jax.distributed import coordination, watchdog
from clipvip_jax.utils import cli

RUN = """
  import pathlib, sys, time
  from clipvip_jax.distributed import watchdog
  watchdog.CHECK_SECONDS = 0.05

  def hang():
    time.sleep(60)

  with watchdog.Watchdog(pathlib.Path(sys.argv[1]), float(sys.argv[2])):
    for step in range(6):
      watchdog.report_progress(f"step {step} of 6")
      time.sleep(0.3)
    if sys.argv[3] == "hangs":
      hang()
    time.sleep(1.5)
  print("finished")
"""


SUSPENDED = """
  import pathlib, sys, time
  from clipvip_jax.distributed import watchdog
  watchdog.CHECK_SECONDS, watchdog.MAX_DELAY_SECONDS = 0.05, 1.0
  with watchdog.Watchdog(pathlib.Path(sys.argv[1]), 2.0):
    for _ in range(2):
      print("working", flush=True)
      time.sleep(1.5)
      watchdog.report_progress("working")
    print("hanging", flush=True)
    time.sleep(60)
"""
ENVIRONMENT = {**os.environ, "JAX_PLATFORMS": "cpu"}  # where libtpu is installed, JAX looks for a TPU and complains


def run(workdir, timeout, how, stderr=subprocess.PIPE):
  return subprocess.run(
    [sys.executable, "-c", textwrap.dedent(RUN), workdir, timeout, how],
    stdout=subprocess.PIPE,
    stderr=stderr,
    text=True,
    timeout=300,
    env=ENVIRONMENT,
  )


def test_aborts_a_hung_process_with_stack_traces(tmp_path):
  done = run(tmp_path, "1", "hangs")
  assert done.returncode == cli.EXIT_HUNG, done.stderr
  message, *stacks = done.stderr.splitlines()
  assert message.startswith(
    "error: process 0: no progress for 1 s (host.watchdog_timeout=1); last activity: step 5 of 6"
  )
  written = (tmp_path / "stack_traces_process_0.txt").read_text()
  for text in ("\n".join(stacks), written):
    assert "in hang" in text
  assert written.startswith(message.removeprefix("error: "))


@pytest.mark.slow
@pytest.mark.parametrize("timeout", ["2", "0"])
def test_a_slow_process_finishes(tmp_path, timeout):
  done = run(tmp_path, timeout, "is slow")
  assert done.returncode == 0 and "finished" in done.stdout, done.stderr
  assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_time_in_which_the_process_was_suspended_does_not_count(tmp_path):
  process = subprocess.Popen(
    [sys.executable, "-c", textwrap.dedent(SUSPENDED), tmp_path], stdout=subprocess.PIPE, text=True, env=ENVIRONMENT
  )
  for _ in range(2):
    assert process.stdout.readline() == "working\n"
    process.send_signal(signal.SIGSTOP)
    time.sleep(3)
    process.send_signal(signal.SIGCONT)
  assert process.wait(timeout=50) == cli.EXIT_HUNG, "it is still watched"
  assert process.stdout.readline() == "hanging\n", "it worked after each suspension"


@pytest.mark.parametrize("output", ["a full disk", "a closed pipe"])
def test_aborts_although_standard_error_cannot_be_written(tmp_path, output):
  if output == "a full disk":
    descriptor = os.open("/dev/full", os.O_WRONLY)
  else:
    reader, descriptor = os.pipe()
    os.close(reader)
  try:
    assert run(tmp_path, "1", "hangs", descriptor).returncode == cli.EXIT_HUNG
  finally:
    os.close(descriptor)
  assert "in hang" in (tmp_path / "stack_traces_process_0.txt").read_text()


def test_aborts_although_the_workdir_cannot_be_written(tmp_path):
  done = run(tmp_path / "absent", "1", "hangs")
  assert done.returncode == cli.EXIT_HUNG and "in hang" in done.stderr, done.stderr


class Launch:
  """Statuses of three processes and a clock, in place of a coordination service. Calls come from process 0."""

  def __init__(self, monkeypatch):
    self.now = 100.0
    self.statuses = {}
    for process in range(3):
      self.publish("alive", process=process)
    monkeypatch.setattr(watchdog.time, "monotonic", lambda: self.now)
    monkeypatch.setattr(coordination, "read_statuses", lambda: dict(self.statuses))
    monkeypatch.setattr(coordination, "publish_status", self.publish)

  def publish(self, state, message="", process=None):
    self.statuses[process or 0] = coordination.Status(state, message, self.now)


@pytest.fixture
def launch(monkeypatch):
  return Launch(monkeypatch)


def test_a_process_without_status_updates_is_lost_and_all_name_it_at_once(launch):
  first, second = watchdog.PeerMonitor(), watchdog.PeerMonitor()
  assert first.check() == ""
  launch.now += 10
  assert second.check() == ""  # began 10 s later, so it would find the loss 10 s later
  launch.now += watchdog.LOST_SECONDS - 9
  launch.publish("alive", process=1)
  message = "process 2 died or its host is down: no status for 41 s"
  assert first.check() == message
  assert launch.statuses[2].state == "lost"
  assert second.check() == message


def test_a_peer_is_not_lost_while_this_process_was_suspended(launch):
  peers = watchdog.PeerMonitor()
  assert peers.check() == ""
  launch.now += 10 * watchdog.LOST_SECONDS
  assert peers.check(suspended=10 * watchdog.LOST_SECONDS) == ""
  launch.now += watchdog.LOST_SECONDS + 1
  assert peers.check().endswith("no status for 41 s")


def test_after_an_error_a_dead_process_is_found_sooner(launch):
  peers = watchdog.PeerMonitor()
  assert peers.check() == ""
  launch.now += watchdog.LOST_SECONDS_AFTER_ERROR + 1
  launch.publish("alive", process=1)
  assert peers.check() == ""
  peers.lost_seconds = watchdog.LOST_SECONDS_AFTER_ERROR
  assert peers.check().startswith("process 2 died")


def test_a_failed_process_is_followed_after_a_while_and_a_finished_one_is_not(launch):
  peers = watchdog.PeerMonitor()
  launch.publish("failed", "out of memory", process=1)
  launch.publish("done", process=2)
  assert peers.check() == ""
  launch.now += watchdog.FOLLOW_SECONDS + 1
  assert peers.check() == "process 1 failed: out of memory"
  launch.publish("done", process=1)
  launch.now += 10 * watchdog.LOST_SECONDS
  assert peers.check() == peers.check() == ""
