"""Complete runs that are interrupted, lose files or are extended: they end as unbroken ones do."""

import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import time

import jax
import numpy as np
import pytest
from flax import traverse_util
from project_paths import ROOT
from small_runs import command, config, mixed_config

from clipvip_jax.evaluation.evaluator import Evaluator
from clipvip_jax.runs import checkpoint, metrics_history
from clipvip_jax.runs.checkpoint import Checkpoints
from clipvip_jax.training import setup, trainer
from clipvip_jax.utils import cli
from clipvip_jax.utils.errors import UserError
from clipvip_jax.weights import sources

pytestmark = [pytest.mark.slow, pytest.mark.unoptimized]


def test_a_mixed_run_resumes_bit_identically(corpora, tmp_path):
  unbroken = trainer.train(mixed_config(corpora), tmp_path / "unbroken")
  assert unbroken["step"] == 12
  # Resumes from step 6 of a copy without the later checkpoints.
  resumed = tmp_path / "resumed"
  shutil.copytree(tmp_path / "unbroken", resumed)
  for step in (resumed / "checkpoints").iterdir():
    if step.name.isdigit() and int(step.name) > 6:
      shutil.rmtree(step)
  results = trainer.train(mixed_config(corpora, **{"host.num_workers": 2}), resumed)
  assert results["splits"] == unbroken["splits"]
  assert (resumed / "metrics.jsonl").read_bytes() == (tmp_path / "unbroken" / "metrics.jsonl").read_bytes()
  other = mixed_config(corpora)
  other.mix.image_text.train_split = "validation"
  with pytest.raises(UserError, match=r"mix\.image_text\.train_split: 'train' .*'validation' .*--workdir"):
    trainer.train(other, resumed)


def test_a_run_with_an_average_resumes_bit_identically_and_is_evaluated_by_it(finished, corpora, tmp_path):
  averaged = config(corpora, **{"train.ema": 0.5})
  unbroken, resumed = tmp_path / "unbroken", tmp_path / "resumed"
  results = trainer.train(averaged, unbroken)
  shutil.copytree(unbroken, resumed)
  for step in (9, 12):
    shutil.rmtree(resumed / "checkpoints" / str(step))
  trainer.train(averaged, resumed)
  for name in ("results.json", "report.html", "metrics.jsonl"):
    assert (resumed / name).read_bytes() == (unbroken / name).read_bytes(), name
  components = setup.prepare(averaged, unbroken)
  states = [
    Checkpoints(path / "checkpoints", 3).restore(12, components.abstract_state)[0] for path in (unbroken, resumed)
  ]
  jax.tree.map(np.testing.assert_array_equal, *map(jax.device_get, states))

  rows = ([json.loads(line) for line in (path / "metrics.jsonl").open()] for path in (unbroken, finished[0]))
  losses, plain = ([row["loss"] for row in run if row["kind"] == "train"] for run in rows)
  np.testing.assert_allclose(losses, plain, rtol=1e-5, err_msg="the average does not change the training")
  evaluator = Evaluator(
    components.model, components.mesh, components.eval_corpus, components.tokenizer, components.config
  )
  source = f"{unbroken}@{results['best_step']}"
  params, raw = (sources.read_weights(name).params for name in (source, f"{source}@raw"))
  assert any(np.any(params[name] != raw[name]) for name in params)
  assert evaluator.evaluate(traverse_util.unflatten_dict(params, sep="/"), "test").metrics == results["splits"]["test"]
  with pytest.raises(UserError, match=r"train\.ema: 0\.5 there, 0\.0 now"):
    trainer.train(config(corpora), unbroken)


def run_until(text, arguments):
  """Starts a run and returns (process, lines) when its output contains `text`."""
  process = subprocess.Popen(
    arguments,
    cwd=ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    env={**os.environ, "PYTHONUNBUFFERED": "1"},
  )
  lines = []
  for line in process.stdout:
    lines.append(line)
    if text in line:
      return process, lines
  raise AssertionError(f"{text!r} is missing:\n{''.join(lines)}")


def finish(process):
  output = process.stdout.read()
  return process.wait(timeout=300), output


def run(arguments):
  return subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=300)


def final_state(workdir, corpora):
  """Every array of the last checkpoint."""
  changes = {"train.num_steps": 40, "train.eval_every": 20, "train.checkpoint_every": 4, "host.log_every": 1}
  components = setup.prepare(config(corpora, **changes), workdir)
  state, _ = Checkpoints(workdir / "checkpoints", 3).restore(40, components.abstract_state)
  return jax.device_get(state)


def test_resumes_bit_identically_after_sigterm_sigkill_and_a_corrupt_checkpoint(corpora, tmp_path):
  unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
  done = run(command(corpora, unbroken))
  assert done.returncode == 0, done.stderr
  assert "test_unseen: 32 of 32 clips" in done.stdout and "Text to video" in done.stdout, "prints the results"

  process, _ = run_until("step 7/40", command(corpora, broken))
  process.send_signal(signal.SIGTERM)
  code, output = finish(process)
  assert code == cli.EXIT_TERMINATED and "SIGTERM: saved step" in output and "Traceback" not in output, output

  process, lines = run_until("step 22/40", command(corpora, broken))
  assert any("resuming from step" in line for line in lines)
  process.kill()
  finish(process)

  committed = [path for path in (broken / "checkpoints").iterdir() if path.name.isdigit()]
  newest = max(committed, key=lambda path: int(path.name))
  for file in newest.rglob("*"):
    if file.is_file():
      file.write_bytes(file.read_bytes()[:10])
  done = run(command(corpora, broken))
  assert done.returncode == 0, done.stderr
  assert "resuming from step" in done.stdout and f"resuming from step {newest.name} " not in done.stdout, done.stdout

  for name in ("results.json", "report.html", "metrics.jsonl", "tokenizer.json"):
    assert (broken / name).read_bytes() == (unbroken / name).read_bytes(), name
  jax.tree.map(np.testing.assert_array_equal, final_state(broken, corpora), final_state(unbroken, corpora))


def test_a_full_disk_stops_the_run_with_a_readable_checkpoint(corpora, tmp_path):
  """From step 8 on, a limit on file sizes rejects large writes (arrays) as a full disk does."""
  workdir = tmp_path / "run"
  program = [
    "import resource, signal, time",
    "from clipvip_jax import main",
    "from clipvip_jax.training import loop",
    "from clipvip_jax.utils import cli",
    "save = loop.Checkpoints.save",
    "def save_to_full_disk(self, state, *rest):",
    "  if int(state.step) == 8:",
    "    while self.newest_committed() != 4: time.sleep(0.1)",  # written in the background
    "    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))",
    "  save(self, state, *rest)",
    "loop.Checkpoints.save = save_to_full_disk",
    "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)",
    "cli.run_command(lambda: main.app.run(main.main, flags_parser=main.parse_flags))",
  ]
  arguments = command(corpora, workdir)
  arguments[1:3] = ["-c", "\n".join(program)]
  done = run(arguments)
  assert done.returncode == 2, done.stderr
  line, *others = done.stderr.splitlines()
  assert not others, done.stderr
  assert line.startswith(
    f"error: {workdir} is not writable (File too large); stopped, the newest checkpoint is step 4."
  )
  assert "Free disk space, then run the same command to resume" in line
  assert checkpoint.read_params(workdir / "checkpoints")[1] == 4


def test_metrics_that_cannot_be_written_stop_the_run_with_a_readable_checkpoint(corpora, tmp_path, monkeypatch):
  append = metrics_history.History.append

  def append_to_full_disk(history, row):
    if row["step"] >= 6:
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    append(history, row)

  monkeypatch.setattr(metrics_history.History, "append", append_to_full_disk)
  message = r"run is not writable \(No space left on device\).* step 3\. Free disk space"
  with pytest.raises(UserError, match=message):
    trainer.train(config(corpora), tmp_path / "run")
  assert checkpoint.read_params(tmp_path / "run" / "checkpoints")[1] == 3


@pytest.mark.parametrize("change", ["moved", "deleted", "replaced"])
def test_a_workdir_that_is_gone_is_noticed_at_the_next_save(corpora, tmp_path, monkeypatch, change):
  workdir = tmp_path / "run"
  append = metrics_history.History.append

  def append_and_lose(history, row):
    append(history, row)
    if row["step"] == 6:
      workdir.rename(tmp_path / "elsewhere")
      if change == "deleted":
        shutil.rmtree(tmp_path / "elsewhere")
      if change == "replaced":
        workdir.mkdir()

  monkeypatch.setattr(metrics_history.History, "append", append_and_lose)
  with pytest.raises(UserError, match=rf"^--workdir={workdir} was moved, deleted or replaced during this run; stopped"):
    trainer.train(config(corpora), workdir)
  assert not (workdir / "results.json").exists()
  if change == "moved":
    monkeypatch.undo()
    for _ in range(100):  # writes that were in progress may create the folder again, also while it is deleted
      shutil.rmtree(workdir, ignore_errors=True)
      with contextlib.suppress(OSError):
        (tmp_path / "elsewhere").rename(workdir)
        break
      time.sleep(0.1)
    assert trainer.train(config(corpora), workdir)["step"] == 12


def test_a_finished_run_is_extended_as_if_it_had_been_longer(corpora, tmp_path):
  changes = {
    "optimizer.schedule": "constant",
    "train.eval_every": 3,
  }  # the first end is an evaluation of the longer run
  trainer.train(config(corpora, **changes, **{"train.num_steps": 6}), tmp_path / "extended")
  for workdir in ("extended", "unbroken"):
    results = trainer.train(config(corpora, **changes, **{"train.num_steps": 12}), tmp_path / workdir)
    assert results["step"] == 12
    assert results.get("extensions") == ([{"from": 6, "to": 12}] if workdir == "extended" else None)
  rows, params = (
    [(tmp_path / name / "metrics.jsonl").read_bytes() for name in ("extended", "unbroken")],
    [checkpoint.read_params(tmp_path / name / "checkpoints", 12)[0] for name in ("extended", "unbroken")],
  )
  assert rows[0] == rows[1]
  jax.tree.map(np.testing.assert_array_equal, *params)
  with pytest.raises(UserError, match=r"a run of 12 steps, which cannot become 6"):
    trainer.train(config(corpora, **changes, **{"train.num_steps": 6}), tmp_path / "extended")
