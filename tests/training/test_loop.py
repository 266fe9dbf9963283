"""Training loop: what is due after which step, and SIGTERM."""

import contextlib
import json
import os
import signal
import types

import jax
import jax.numpy as jnp
import pytest
from small_runs import config

from clipvip_jax.distributed import device_memory
from clipvip_jax.evaluation.evaluator import Evaluator
from clipvip_jax.runs import workdir as run_workdir
from clipvip_jax.runs.checkpoint import Checkpoints
from clipvip_jax.runs.metrics_history import History
from clipvip_jax.runs.run_folder import RunFolder
from clipvip_jax.runs.workdir_lock import workdir_lock
from clipvip_jax.tracking.open_trackers import TrackerGroup
from clipvip_jax.training import setup
from clipvip_jax.training.initial_state import restore_or_initialize
from clipvip_jax.training.loop import TrainLoop
from clipvip_jax.utils import config_tree, signals
from clipvip_jax.utils.errors import Terminated, UserError
from clipvip_jax.utils.log import log

# Nothing that enters the compiled step, so that it is the one of the other tests.
CHANGES = {"train.eval_every": 5, "train.checkpoint_every": 4, "host.log_every": 6}


class StubEvaluator:
  """Returns a recall that grows with each evaluation, after calling `on_evaluation`."""

  def __init__(self, on_evaluation=lambda: None):
    self.splits, self._on_evaluation = [], on_evaluation

  def evaluate(self, params, split):
    self._on_evaluation()
    self.splits.append(split)
    recall = dict.fromkeys(("R@1", "R@5", "R@10"), 0.1 * len(self.splits))
    metrics = {"size": 8, "plain": {"text_to_video": recall}}
    return types.SimpleNamespace(metrics=metrics)


@contextlib.contextmanager
def open_loop(corpora, workdir, evaluator, folder=None, **changes):
  """(loop, first state, checkpoints)."""
  components = setup.prepare(config(corpora, **{**CHANGES, **changes}), workdir, folder)
  run_workdir.claim(workdir, config_tree.to_json_dict(components.config), components.corpus_identity)
  checkpoints = Checkpoints(workdir / "checkpoints", 9)
  history = History(workdir / "metrics.jsonl", 0)
  with contextlib.closing(checkpoints), contextlib.closing(history), workdir_lock(workdir), signals.handled():
    state, _ = restore_or_initialize(components, checkpoints, {})
    yield TrainLoop(components, evaluator, checkpoints, history, TrackerGroup([])), state, checkpoints


@pytest.mark.slow
@pytest.mark.unoptimized
def test_logs_evaluates_and_saves_at_the_configured_steps(corpora, tmp_path):
  evaluator = StubEvaluator()
  with open_loop(corpora, tmp_path, evaluator) as (loop, state, checkpoints):
    assert int(loop.run(state, 0).step) == 12
    assert checkpoints.best_step() == 12  # the last evaluation has the highest recall
    assert checkpoints.steps() == [4, 5, 8, 10, 12]
  rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
  assert [row["step"] for row in rows if row["kind"] == "train"] == [6, 12]
  assert [row["step"] for row in rows if row["kind"] == "eval"] == [5, 10, 12]
  assert evaluator.splits == ["validation"] * 3


@pytest.mark.slow
@pytest.mark.unoptimized
def test_a_signal_during_an_evaluation_stops_at_once_and_the_evaluation_is_repeated(corpora, tmp_path):
  changes = {"train.checkpoint_every": 12}
  unbroken = StubEvaluator()
  with open_loop(corpora, tmp_path / "unbroken", unbroken, **changes) as (loop, state, checkpoints):
    loop.run(state, 0)

  def stop():
    os.kill(os.getpid(), signal.SIGTERM)
    raise AssertionError("the signal ends the evaluation")

  with open_loop(corpora, tmp_path / "broken", StubEvaluator(stop), **changes) as (loop, state, checkpoints):
    message = r"SIGTERM: saved step 5 of 12 in .*; run the same command to resume"
    with pytest.raises(Terminated, match=message):
      loop.run(state, 0)
    checkpoints.wait()
    assert checkpoints.steps() == [5] and not checkpoints.has_score(5)
  with open_loop(corpora, tmp_path / "broken", StubEvaluator(), **changes) as (loop, state, checkpoints):
    state, position = checkpoints.restore_latest(state)
    assert position == {"next_record": 5 * 16}
    loop.run(state, 5)
    assert checkpoints.has_score(5)
  rows = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("unbroken", "broken")]
  assert rows[0] == rows[1]


def real_evaluator(corpora, workdir):
  parts = setup.prepare(config(corpora), workdir)
  return Evaluator(parts.model, parts.mesh, parts.eval_corpus, parts.tokenizer, parts.config)


@pytest.mark.slow
@pytest.mark.unoptimized
def test_steps_and_evaluations_transfer_nothing_unasked(corpora, tmp_path, monkeypatch):
  """JAX does not guard copies from CPU devices, so that conversions of arrays to Python's numbers are errors here."""

  def refuse(array):
    raise AssertionError("use jax.device_get")

  evaluator = real_evaluator(corpora, tmp_path)
  with open_loop(corpora, tmp_path, evaluator, **{"host.log_every": 1}) as (loop, state, _):
    for conversion in ("__float__", "__int__", "__index__", "__bool__"):
      monkeypatch.setattr(type(jnp.zeros(())), conversion, refuse)
    with jax.transfer_guard("disallow"):
      loop.run(state, 0)


@pytest.mark.slow
@pytest.mark.unoptimized
def test_peak_memory_and_a_trace_of_chosen_steps(corpora, tmp_path, monkeypatch, caplog):
  caplog.set_level("INFO", logger=log.name)
  monkeypatch.setattr(device_memory, "peak_bytes", lambda: 3 * 2**30)
  changes = {"host.profile_steps": "5-6"}
  with open_loop(corpora, tmp_path, StubEvaluator(), **changes) as (loop, state, _):
    loop.run(state, 0)
  rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
  assert [row["peak_memory"] for row in rows if row["kind"] == "train"] == [3 * 2**30] * 2
  assert "left | 3.0 GiB of memory" in caplog.text and "traced steps 5 to 6;" in caplog.text
  (trace,) = (tmp_path / "profile").rglob("*.xplane.pb")
  assert trace.stat().st_size


class RecordingFolder(RunFolder):
  """Records the last row of metrics.jsonl at each upload, and whether its step has a score already."""

  def __init__(self, path):
    super().__init__(path)
    self.uploads, self.checkpoints = [], None

  def upload(self):
    row = json.loads((self.path / "metrics.jsonl").read_text().splitlines()[-1])
    self.uploads.append((row["kind"], row["step"], self.checkpoints.has_score(row["step"])))


@pytest.mark.slow
@pytest.mark.unoptimized
def test_an_evaluation_is_uploaded_before_its_score(corpora, tmp_path):
  folder = RecordingFolder(tmp_path)
  with open_loop(corpora, tmp_path, StubEvaluator(), folder) as (loop, state, folder.checkpoints):
    loop.run(state, 0)
  assert folder.uploads == [("eval", 5, False), ("eval", 10, False), ("eval", 12, False)]


@pytest.mark.slow
@pytest.mark.unoptimized
def test_a_signal_between_evaluations_saves_the_step(corpora, tmp_path):
  with open_loop(corpora, tmp_path, StubEvaluator()) as (loop, state, checkpoints):
    signals.defer()
    os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(Terminated, match=r"SIGINT: saved step 1 of 12 in ") as stopped:
      loop.run(state, 0)
    checkpoints.wait()
    assert stopped.value.exit_code == 130 and checkpoints.steps() == [1]


@pytest.mark.slow
@pytest.mark.unoptimized
def test_stops_at_a_loss_that_is_not_finite_before_saving_it(corpora, tmp_path):
  # The first update of the warm-up overflows the parameters, so that the second loss is NaN.
  changes = {"optimizer.learning_rate": 1e38, "train.checkpoint_every": 1}
  with open_loop(corpora, tmp_path, StubEvaluator(), **changes) as (loop, state, checkpoints):
    with pytest.raises(
      UserError, match=r"step 2: loss nan.* step 1\. Records of the batch: train_\d+(, train_\d+){15}\."
    ):
      loop.run(state, 0)
    checkpoints.best_step()  # waits for the write
    assert checkpoints.steps() == [1]
