"""What stops a run that has started, and how it goes on."""

import json
import os
import shutil
import signal
import subprocess

import jax
import numpy as np
import pytest
from project_paths import ROOT
from small_runs import command, config, mixed_config

from clipvip_jax import main
from clipvip_jax.runs import checkpoint, metrics_history
from clipvip_jax.runs.checkpoint import Checkpoints
from clipvip_jax.training import loop, setup, trainer
from clipvip_jax.utils.errors import UserError


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_records(corpus, tmp_path):
  # The first update of the warm-up throws the parameters away, so the second loss is no number.
  bad = config(corpus, **{"optimizer.learning_rate": 1e38, "train.checkpoint_every": 1})
  with pytest.raises(UserError, match=r"step 2: loss nan.*step 1\. Records of the batch: train_\d+(, train_\d+){15}\."):
    trainer.train(bad, tmp_path / "run")
  assert Checkpoints(tmp_path / "run" / "checkpoints", 3).steps() == [1]


def test_records_of_a_mix_are_named_where_the_loss_is_not_finite(corpus, finished, tmp_path):
  mix = mixed_config(corpus)
  mix.mix.video_text.train_split = "validation"
  one = object.__new__(loop.Loop)
  one._parts = setup.prepare(mix, tmp_path / "run")
  one._checkpoints = Checkpoints(tmp_path / "checkpoints", 1)
  names = [[parts_.clips.source[i]["id"].decode() for i in range(3)] for parts_ in one._parts.sources]
  one._unchecked = (7, {"loss": np.nan, "grad_norm": 0.0}, np.array([[2, 1], [2, 0], [2, -1]]))
  with pytest.raises(UserError, match=rf"step 7: loss nan.*no checkpoint.* batch: {names[2][1]}, {names[2][0]}\."):
    one._check_finite()
  assert names[2][1].startswith("validation_") and names[1][1].startswith("train_")


def test_a_full_disk_stops_the_run_with_a_checkpoint_that_can_be_read(finished, corpus, tmp_path):
  """A limit on the size of files refuses writes as a full disk does: of arrays, which are larger, from step 8 on."""
  folder = tmp_path / "run"
  full = [
    "import resource, signal",
    "from clipvip_jax import main",
    "from clipvip_jax.training import loop",
    "from clipvip_jax.utils import cli",
    "save = loop.Checkpoints.save",
    "def fill(self, state, *rest):",
    "  self._manager.wait_until_finished()",  # the checkpoint before is written in the background
    "  if int(state.step) == 8: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))",
    "  save(self, state, *rest)",
    "loop.Checkpoints.save = fill",
    "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)",
    "cli.run_command(lambda: main.app.run(main.main, flags_parser=main.parse_flags))",
  ]
  arguments = command(corpus, folder)
  arguments[1:3] = ["-c", "\n".join(full)]
  done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=120)
  assert done.returncode == 2, done.stderr
  (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
  assert line.startswith(f"error: {folder} cannot be written (File too large); stopped, the newest checkpoint is")
  assert "is that of step 4. Make room" in line
  assert checkpoint.read_params(folder / "checkpoints")[1] == 4


def test_metrics_that_cannot_be_written_stop_the_run_with_words(finished, corpus, tmp_path, monkeypatch):
  real = metrics_history.History.append

  def full(history, row):
    if row["step"] >= 6:
      history._file = open("/dev/full", "a")  # noqa: SIM115, PTH123
    real(history, row)

  monkeypatch.setattr(metrics_history.History, "append", full)
  with pytest.raises(
    UserError, match=r"run cannot be written \(No space left on device\).* that of step 3\. Make room"
  ):
    trainer.train(config(corpus), tmp_path / "run")
  assert checkpoint.read_params(tmp_path / "run" / "checkpoints")[1] == 3


def test_a_mix_of_sources_is_one_run_that_goes_on_where_it_stopped(corpus, tmp_path):
  whole = trainer.train(mixed_config(corpus), tmp_path / "whole")
  assert whole["step"] == 12
  identity = json.loads((tmp_path / "whole" / "corpus.json").read_text())
  assert identity["mix"].keys() == {"video_text", "image_text"}
  # Half of the steps, and then the others: a new run with the first's checkpoint.
  folder = tmp_path / "broken"
  shutil.copytree(tmp_path / "whole", folder)
  for step in (folder / "checkpoints").iterdir():
    if step.name.isdigit() and int(step.name) > 6:
      shutil.rmtree(step)
  again = trainer.train(mixed_config(corpus, **{"host.num_workers": 2}), folder)
  assert again["splits"] == whole["splits"]
  assert (folder / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()
  other = mixed_config(corpus)
  other.mix.image_text.train_split = "validation"
  with pytest.raises(UserError, match=r"mix\.image_text\.train_split: 'train' there, 'validation' now"):
    trainer.train(other, folder)


def run_until(text, arguments):
  """Starts a run, and returns it once its output holds `text`."""
  process = subprocess.Popen(
    arguments,
    cwd=ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    env={**os.environ, "PYTHONUNBUFFERED": "1"},
  )
  seen = []
  for line in process.stdout:
    seen.append(line)
    if text in line:
      return process, seen
  raise AssertionError(f"{text!r} never came:\n{''.join(seen)}")


def finish(process):
  output = process.stdout.read()
  return process.wait(timeout=300), output


def final_state(folder):
  """Every array of the last checkpoint."""
  checkpoints = Checkpoints(folder / "checkpoints", 3)
  manager = checkpoints._manager
  restored = manager.restore(40, args=train_args())
  return jax.tree.leaves(restored["state"])


def train_args():
  import orbax.checkpoint as ocp

  return ocp.args.Composite(state=ocp.args.StandardRestore())


def test_terminated_and_killed_and_cut_the_run_ends_as_an_unbroken_one_bit_for_bit(finished, corpus, tmp_path):
  unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
  done = subprocess.run(command(corpus, unbroken), cwd=ROOT, capture_output=True, text=True, timeout=300)
  assert done.returncode == 0, done.stderr

  process, _ = run_until("step 7/40", command(corpus, broken))
  process.send_signal(signal.SIGTERM)
  code, output = finish(process)
  assert code == main.EXIT_TERMINATED and "SIGTERM: saved step" in output and "Traceback" not in output, output

  process, seen = run_until("step 22/40", command(corpus, broken))
  assert any("going on from the checkpoint of step" in line for line in seen)
  process.kill()
  finish(process)

  whole = [path for path in (broken / "checkpoints").iterdir() if path.name.isdigit()]
  newest = max(whole, key=lambda path: int(path.name))
  for file in newest.rglob("*"):
    if file.is_file():
      file.write_bytes(file.read_bytes()[:10])
  done = subprocess.run(command(corpus, broken), cwd=ROOT, capture_output=True, text=True, timeout=300)
  assert done.returncode == 0, done.stderr
  assert f"moved the damaged checkpoint of step {newest.name} to" in done.stdout, done.stdout
  assert "going on from the checkpoint of step" in done.stdout, done.stdout

  for name in ("results.json", "report.html", "metrics.jsonl", "tokenizer.json"):
    assert (broken / name).read_bytes() == (unbroken / name).read_bytes(), name
  for a, b in zip(final_state(unbroken), final_state(broken), strict=True):
    np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
