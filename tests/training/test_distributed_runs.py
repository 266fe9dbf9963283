"""Runs of two processes, as on two hosts."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
from project_paths import ROOT

from clipvip_jax.runs.checkpoint import Checkpoints
from clipvip_jax.utils import cli

STEPS = 6


def free_port():
  with socket.socket() as server:
    server.bind(("localhost", 0))
    return server.getsockname()[1]


def start(folder, corpus, *overrides, second=()):
  """Starts both processes of a run of the smoke recipe, with the flags `second` for process 1 only.

  On CPUs, processes other than 0 do not share the compilation cache. They compile a small loss.
  """
  port = free_port()
  return [
    subprocess.Popen(
      [
        sys.executable,
        "-m",
        "clipvip_jax.main",
        "--config=configs/post_pretrain.py:smoke",
        f"--workdir={folder}",
        f"--config.data.data_dir={corpus}",
        "--config.loss=vs",
        f"--config.train.num_steps={STEPS}",
        "--config.train.eval_every=6",
        "--config.evaluate.final_splits=('test',)",
        "--config.host.log_every=1",
        f"--coordinator=localhost:{port}",
        "--num_processes=2",
        f"--process_id={index}",
        *overrides,
        *(second if index else ()),
      ],
      cwd=ROOT,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
      env={**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONUNBUFFERED": "1"},
    )
    for index in range(2)
  ]


def finish(processes):
  outputs = [process.communicate(timeout=120)[0] for process in processes]
  return [process.returncode for process in processes], outputs


def wait_for(text, process):
  for line in process.stdout:
    if text in line:
      return
  pytest.fail(f"{text!r} is missing in the output")


def rows(folder):
  return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.unoptimized
def test_two_processes_resume_bit_identically_after_sigterm_and_a_killed_process(tmp_path):
  corpus = tmp_path / "corpora"
  unbroken_workdir, broken = tmp_path / "unbroken", tmp_path / "broken"
  processes = start(broken, corpus)
  wait_for(f"step 2/{STEPS}", processes[0])
  processes[1].terminate()  # either process may receive the signal
  codes, outputs = finish(processes)
  assert codes == [cli.EXIT_TERMINATED] * 2, outputs
  saved = Checkpoints(broken / "checkpoints", 3).steps()[-1]
  assert 2 <= saved < STEPS and f"saved step {saved}" in outputs[0]

  processes = start(broken, corpus)
  wait_for(f"step {saved + 1}/{STEPS}", processes[0])
  processes[1].kill()
  killed = time.monotonic()
  unbroken = start(unbroken_workdir, corpus)  # meanwhile
  codes, outputs = finish(processes)
  assert time.monotonic() - killed < 60
  assert codes == [cli.EXIT_HUNG, -signal.SIGKILL], outputs
  assert "error: process 0: process 1 died or its host is down: no status for" in outputs[0], outputs[0]
  assert "trainer.py" in (broken / "stack_traces_process_0.txt").read_text()

  codes, outputs = finish(unbroken)
  assert codes == [0, 0], outputs
  assert f"step {STEPS}/{STEPS}" in outputs[0] and "step" not in outputs[1], "only process 0 logs"
  codes, outputs = finish(start(broken, corpus))
  assert codes == [0, 0], outputs
  assert "resuming from step" in outputs[0]
  assert rows(broken) == rows(unbroken_workdir)
  for name in ("results.json", "report.html"):
    assert (broken / name).read_bytes() == (unbroken_workdir / name).read_bytes(), name


@pytest.mark.slow
def test_bad_input_ends_both_processes(tmp_path):
  codes, outputs = finish(start(tmp_path / "run", tmp_path / "none", "--config.data.prepare=False"))
  assert codes == [cli.EXIT_BAD_INPUT] * 2, outputs
  assert all("error: corpus moving_shapes/smoke" in output for output in outputs)
  assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_processes_with_different_flags_end_with_the_same_error(tmp_path):
  codes, outputs = finish(start(tmp_path / "run", tmp_path, second=("--config.seed=3", "--config.host.num_workers=1")))
  assert codes == [cli.EXIT_BAD_INPUT] * 2, outputs
  words = "error: the processes of this launch differ: process 1: seed is 3, in process 0 0. Start all of them with"
  assert all(words in output for output in outputs), outputs
  assert not list(tmp_path.iterdir())
