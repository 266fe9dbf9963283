"""Runs of two processes, as on two hosts."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from ports import reserve_port
from project_paths import ROOT

from clipvip_jax.runs import checkpoint
from clipvip_jax.runs.checkpoint import Checkpoints
from clipvip_jax.utils import cli

STEPS = 8


def start(folder, corpus, *overrides, second=()):
  """Starts both processes of a run of the smoke recipe, with the flags `second` for process 1 only.

  On CPUs, processes other than 0 do not share the compilation cache. They compile a small loss.
  """
  port = reserve_port()
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
        f"--config.train.eval_every={STEPS}",
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
  outputs = [process.communicate(timeout=300)[0] for process in processes]
  return [process.returncode for process in processes], outputs


def wait_for(text, process):
  for line in process.stdout:
    if text in line:
      return
  pytest.fail(f"{text!r} is missing in the output")


def terminate_second(processes):
  """Sends SIGTERM to process 1; either process may receive it.

  JAX looks for the signal once a second. Process 0, without which no step ends, is suspended meanwhile.
  """
  processes[0].send_signal(signal.SIGSTOP)
  processes[1].terminate()
  time.sleep(2)
  processes[0].send_signal(signal.SIGCONT)


def rows(folder):
  return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
  """The workdir of a run that was not interrupted, with its corpus beside it."""
  folder = tmp_path_factory.mktemp("unbroken")
  codes, outputs = finish(start(folder / "run", folder / "corpora"))
  assert codes == [0, 0], outputs
  assert f"step {STEPS}/{STEPS}" in outputs[0] and "step" not in outputs[1], "only process 0 logs"
  return folder / "run"


@pytest.mark.slow
@pytest.mark.unoptimized
def test_two_processes_resume_bit_identically_after_sigterm_and_a_killed_process(unbroken, tmp_path):
  corpus, broken = unbroken.parent / "corpora", tmp_path / "broken"
  processes = start(broken, corpus)
  wait_for(f"step 2/{STEPS}", processes[0])
  terminate_second(processes)
  codes, outputs = finish(processes)
  assert codes == [cli.EXIT_TERMINATED] * 2, outputs
  saved = Checkpoints(broken / "checkpoints", 3).steps()[-1]
  assert 2 <= saved < STEPS and f"saved step {saved}" in outputs[0]

  processes = start(broken, corpus)
  wait_for(f"step {saved + 1}/{STEPS}", processes[0])
  processes[1].kill()
  killed = time.monotonic()
  codes, outputs = finish(processes)
  assert time.monotonic() - killed < 60
  assert codes == [cli.EXIT_HUNG, -signal.SIGKILL], outputs
  assert "error: process 0: process 1 died or its host is down: no status for" in outputs[0], outputs[0]
  assert "trainer.py" in (broken / "stack_traces_process_0.txt").read_text()

  codes, outputs = finish(start(broken, corpus))
  assert codes == [0, 0], outputs
  assert "resuming from step" in outputs[0]
  assert rows(broken) == rows(unbroken)
  for name in ("results.json", "report.html"):
    assert (broken / name).read_bytes() == (unbroken / name).read_bytes(), name


@pytest.mark.slow
@pytest.mark.unoptimized
def test_two_processes_in_a_bucket_end_as_on_a_disk(unbroken, bucket, tmp_path):
  bucket.upload(unbroken.parent / "corpora", "corpora")
  arguments = bucket / "run", bucket / "corpora", f"--config.host.scratch_dir={tmp_path / 'scratch'}"
  processes = start(*arguments)
  wait_for(f"step 2/{STEPS}", processes[0])
  terminate_second(processes)
  codes, outputs = finish(processes)
  assert codes == [cli.EXIT_TERMINATED] * 2, outputs
  shutil.rmtree(tmp_path / "scratch")
  codes, outputs = finish(start(*arguments))
  assert codes == [0, 0] and "resuming from step" in outputs[0], outputs
  bucket.download("run", tmp_path / "run")
  assert rows(tmp_path / "run") == rows(unbroken)
  ours, theirs = (json.loads((workdir / "results.json").read_text()) for workdir in (tmp_path / "run", unbroken))
  assert {**ours, "config": None} == {**theirs, "config": None}
  ours, theirs = (checkpoint.read_params(path / "checkpoints", STEPS)[0] for path in (tmp_path / "run", unbroken))
  jax.tree.map(np.testing.assert_array_equal, ours, theirs)


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
