"""Runs that read their corpus from a bucket and write to it: interrupted, they end as one on a local disk."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from project_paths import ROOT

from clipvip_jax.runs import checkpoint
from clipvip_jax.utils import cli

pytestmark = [pytest.mark.slow, pytest.mark.unoptimized]
STEPS = 12


def start(corpora, workdir, scratch):
  """Starts the smoke recipe, which builds its corpus where there is none."""
  arguments = [
    *(sys.executable, "-m", "clipvip_jax.main", "--config=configs/post_pretrain.py:smoke", f"--workdir={workdir}"),
    f"--config.data.data_dir={corpora}",
    f"--config.host.scratch_dir={scratch}",
    "--config.host.log_every=1",
  ]
  env = {**os.environ, "PYTHONUNBUFFERED": "1"}
  return subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env)


def finish(process):
  output = process.communicate(timeout=300)[0]
  return process.returncode, output


def interrupt(process, step, name):
  """Sends a signal at a random moment of a step; returns (exit code, output)."""
  lines = []
  for line in process.stdout:
    lines.append(line)
    if f"step {step}/{STEPS}" in line:
      time.sleep(random.Random(f"{name} {step}").uniform(0, 0.3))
      process.send_signal(signal.Signals[name])
      code, rest = finish(process)
      return code, "".join(lines) + rest
  raise AssertionError(f"step {step} is missing:\n{''.join(lines)}")


def results(workdir):
  """What was measured, with all settings but those of the machine and of paths."""
  content = json.loads((workdir / "results.json").read_text())
  content["config"].pop("host")
  content["config"]["data"].pop("data_dir")
  return content


@pytest.fixture(scope="module")
def local(tmp_path_factory):
  """A folder with the corpora and the workdir `run` of an uninterrupted run."""
  folder = tmp_path_factory.mktemp("local")
  code, output = finish(start(folder / "corpora", folder / "run", folder))
  assert code == 0, output
  return folder


def test_an_interrupted_run_in_a_bucket_ends_with_the_bytes_of_a_local_one(local, bucket, tmp_path):
  places = bucket / "corpora", bucket / "run", tmp_path / "scratch"
  code, output = interrupt(start(*places), 4, "SIGTERM")
  assert code == cli.EXIT_TERMINATED and "SIGTERM: saved step" in output and "Traceback" not in output, output
  shutil.rmtree(tmp_path / "scratch")  # as on another machine
  code, output = interrupt(start(*places), 8, "SIGKILL")
  assert code == -signal.SIGKILL and "resuming from step" in output, output
  shutil.rmtree(tmp_path / "scratch")
  code, output = finish(start(*places))
  assert code == 0 and "resuming from step" in output and "test_unseen: 32 of 32 clips" in output, output

  bucket.download("", tmp_path / "bucket")
  ended = tmp_path / "bucket" / "run"
  for name in ("metrics.jsonl", "tokenizer.json"):
    assert (ended / name).read_bytes() == (local / "run" / name).read_bytes(), name
  assert results(ended) == results(local / "run")
  params, step = checkpoint.read_params(ended / "checkpoints", STEPS)
  assert step == STEPS
  jax.tree.map(np.testing.assert_array_equal, params, checkpoint.read_params(local / "run" / "checkpoints", STEPS)[0])
  assert (ended / "report.html").stat().st_size > 10_000
  assert not (ended / "lock").exists()

  built = sorted(path.relative_to(local) for path in (local / "corpora").rglob("*.array_record*"))
  assert len(built) == 10
  for path in built:
    assert (tmp_path / "bucket" / path).read_bytes() == (local / path).read_bytes(), path
