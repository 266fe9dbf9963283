"""Launches of two real processes, without training."""

import os
import signal
import subprocess
import sys
import textwrap

import pytest
from ports import reserve_port
from project_paths import ROOT

from clipvip_jax.distributed import coordination
from clipvip_jax.utils import cli
from clipvip_jax.utils.errors import UserError

PRELUDE = """
import os, pathlib, signal, sys, time
import jax
from clipvip_jax.distributed import coordination, watchdog
from clipvip_jax.utils.errors import UserError

process = int(sys.argv[2])
coordination.initialize(f"localhost:{sys.argv[1]}", 2, process, join_seconds=int(sys.argv[3]))
assert jax.process_index() == process
"""


def launch(code, *, processes=(0, 1), join_seconds=60):
  """(exit codes, outputs) of processes that join one launch and run `code`."""
  port = reserve_port()
  started = [
    subprocess.Popen(
      [sys.executable, "-c", PRELUDE + textwrap.dedent(code), str(port), str(process), str(join_seconds)],
      cwd=ROOT,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
      env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
    for process in processes
  ]
  outputs = [process.communicate(timeout=300)[0] for process in started]
  return [process.returncode for process in started], outputs


def test_processes_gather_texts_share_statuses_and_raise_together():
  codes, outputs = launch("""
    for round in range(2):
      assert coordination.allgather_text(f"{round} of {process}") == [f"{round} of 0", f"{round} of 1"]
    coordination.raise_on_all_processes("")
    coordination.publish_status("done", "message")
    coordination.allgather_text("")
    statuses = coordination.read_statuses()
    assert [(statuses[i].state, statuses[i].message) for i in (0, 1)] == [("done", "message")] * 2
    try:
      coordination.raise_on_all_processes("no such file" if process else "")
    except UserError as error:
      coordination.shutdown(2, str(error)) if process else print("raised:", error, flush=True)
      coordination.shutdown(3, str(error))
  """)
  assert codes == [3, 2], outputs
  assert "raised: process 1: no such file" in outputs[0]


def test_the_death_of_process_0_ends_the_others_with_a_message():
  codes, outputs = launch("""
    coordination.allgather_text("")
    if process == 0:
      os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)
  """)
  assert codes == [-signal.SIGKILL, cli.EXIT_HUNG], outputs
  assert "error: process 1: process 0, the coordinator of this launch, died or is unreachable" in outputs[1]


@pytest.mark.slow
def test_a_process_that_does_not_join_is_named():
  codes, outputs = launch("", processes=(0,), join_seconds=3)
  assert codes == [-signal.SIGABRT] and "timed out task names:\n1\n" in outputs[0], (codes, outputs)


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (("localhost", 2, 0), "--coordinator=localhost must be HOST:PORT"),
    (("localhost:http", 2, 0), "--coordinator=localhost:http must be HOST:PORT"),
    (("localhost:99999", 2, 0), "a port from 1 to 65535"),
    (("localhost:1234", 0, 0), "--num_processes=0 must be at least 1"),
    (("localhost:1234", 2, 2), "--process_id=2 must be from 0 to 1"),
    (("localhost:1234", None, -1), "--process_id=-1 must be at least 0"),
  ],
)
def test_invalid_arguments_are_refused_before_joining(arguments, message):
  with pytest.raises(UserError, match=message):
    coordination.initialize(*arguments)


def test_a_launch_that_cannot_be_detected_is_refused_with_the_flags_that_describe_it(monkeypatch):
  for name in [name for name in os.environ if name.startswith(("SLURM_", "OMPI_", "TPU_", "JAX_COORD"))]:
    monkeypatch.delenv(name)
  code = "from clipvip_jax.distributed import coordination\ncoordination.initialize(None, None, None)"
  done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
  assert "UserError: cannot join a distributed launch: " in done.stderr
  assert "Pass --coordinator=HOST:PORT --num_processes=N --process_id=I" in done.stderr


def test_a_single_process_gathers_its_own_text():
  assert coordination.allgather_text("a") == ["a"]
  with pytest.raises(UserError, match=r"^no such file$"):
    coordination.raise_on_all_processes("no such file")


@pytest.mark.parametrize(("processes", "text"), [([1], "process 1"), ([1, 2], "processes 1, 2")])
def test_format_processes(processes, text):
  assert coordination.format_processes(processes) == text
