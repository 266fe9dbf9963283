"""A run that stands still is ended with words; one that is slow is not."""

import os
import subprocess
import sys
import textwrap

import pytest

from clipvip_jax.distributed import watchdog
from clipvip_jax.utils import cli

RUN = """
  import pathlib, sys, time
  from clipvip_jax.distributed import watchdog
  watchdog._LOOK_SECONDS = 0.05

  def stands_still():
    time.sleep(60)

  with watchdog.Watchdog(pathlib.Path(sys.argv[1]), float(sys.argv[2])):
    for step in range(6):
      watchdog.report_progress(f"step {step} of 6")
      time.sleep(0.3)
    if sys.argv[3] == "stands still":
      stands_still()
    time.sleep(1.5)
  print("came to its end")
"""


def run(folder, patience, how):
  return subprocess.run(
    [sys.executable, "-c", textwrap.dedent(RUN), folder, patience, how],
    capture_output=True,
    text=True,
    timeout=50,
    env={**os.environ, "JAX_PLATFORMS": "cpu"},  # where libtpu is installed, JAX looks for a TPU and complains
  )


def test_a_run_that_stands_still_is_ended_and_says_where(tmp_path):
  done = run(tmp_path, "1", "stands still")
  assert done.returncode == cli.EXIT_HUNG, done.stderr
  first, *stacks = done.stderr.splitlines()
  assert first.startswith("error: process 0: no progress for 1 s (host.watchdog_timeout=1); last: step 5 of 6")
  for text in ("\n".join(stacks), (tmp_path / "stuck_process_0.txt").read_text()):
    assert "in stands_still" in text
  assert (tmp_path / "stuck_process_0.txt").read_text().startswith(first.removeprefix("error: "))


@pytest.mark.parametrize("patience", ["2", "0"])
def test_a_run_that_is_slow_comes_to_its_end(tmp_path, patience):
  done = run(tmp_path, patience, "is slow")
  assert done.returncode == 0 and "came to its end" in done.stdout, done.stderr
  assert not list(tmp_path.iterdir())


def test_where_the_folder_cannot_be_written_it_ends_all_the_same(tmp_path):
  done = run(tmp_path / "absent", "1", "stands still")
  assert done.returncode == cli.EXIT_HUNG and "in stands_still" in done.stderr, done.stderr


def test_who_finds_that_a_process_is_lost_tells_all_who_then_say_the_same_at_once(tmp_path, monkeypatch):
  told = {0: ["alive", "", 1.0], 1: ["alive", "", 1.0], 2: ["alive", "", 1.0]}
  now = [100.0]
  monkeypatch.setattr(watchdog.time, "monotonic", lambda: now[0])
  monkeypatch.setattr(
    watchdog.coordination, "read_statuses", lambda: {process: list(said) for process, said in told.items()}
  )

  def say(state, words="", process=0):
    told[process] = [state, words, now[0]]

  monkeypatch.setattr(watchdog.coordination, "publish_status", say)
  finder, other = (watchdog.Watchdog(tmp_path, 0) for _ in range(2))
  assert finder._lost() == ""
  now[0] += 10
  assert other._lost() == ""  # looks for the first time, so it would find out 10 s later
  now[0] += watchdog._LOST_SECONDS - 9
  told[1] = ["alive", "", now[0]]
  assert finder._lost() == "process 2 was not heard of for 41 s: killed, or its host is gone"
  assert told[2][0] == "lost"
  assert other._lost() == "process 2 was not heard of for 41 s: killed, or its host is gone"
