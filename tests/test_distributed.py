"""Two real processes that make one run, as on two hosts."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np

from clipvip_jax import command, main
from clipvip_jax.checkpoint import Checkpoints

ROOT = pathlib.Path(__file__).parent.parent


def free_port():
  with socket.socket() as server:
    server.bind(("localhost", 0))
    return server.getsockname()[1]


def start(folder, corpus, steps, *overrides):
  """Both processes of a run of the smoke recipe."""
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
        f"--config.train.num_steps={steps}",
        "--config.train.eval_every=6",
        "--config.host.log_every=1",
        f"--coordinator=localhost:{port}",
        "--num_processes=2",
        f"--process_id={index}",
        *overrides,
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


def final_loss(folder, step):
  rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
  return {row["step"]: row["loss"] for row in rows if row["kind"] == "train"}[step]


def test_two_processes_are_one_run_and_stop_and_go_on_together(tmp_path):
  corpus = tmp_path / "corpora"
  whole, broken = tmp_path / "whole", tmp_path / "broken"
  codes, outputs = finish(start(whole, corpus, 12))
  assert codes == [0, 0], outputs
  assert "step 12/12" in outputs[0] and "step 12/12" not in outputs[1], "only process 0 speaks"
  assert (whole / "results.json").exists()

  processes = start(broken, corpus, 12)
  for line in processes[0].stdout:
    if "step 2/12" in line:
      break
  processes[1].terminate()  # a signal to either is one to both
  codes, outputs = finish(processes)
  assert codes == [main.TERMINATED] * 2, outputs
  saved = Checkpoints(broken / "checkpoints", 3).steps()[-1]
  assert 2 <= saved < 12 and f"saved step {saved}" in outputs[0]

  codes, outputs = finish(start(broken, corpus, 12))
  assert codes == [0, 0], outputs
  assert f"going on from the checkpoint of step {saved}" in outputs[0]
  np.testing.assert_array_equal(final_loss(broken, 12), final_loss(whole, 12))


def test_what_one_process_refuses_ends_both(tmp_path):
  codes, outputs = finish(start(tmp_path / "run", tmp_path / "none", 12, "--config.data.prepare=False"))
  assert codes == [command.BAD_INPUT] * 2, outputs
  assert all("error: corpus moving_shapes/smoke" in output for output in outputs)
  assert not (tmp_path / "run").exists()
