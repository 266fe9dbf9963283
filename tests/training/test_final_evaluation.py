"""Final results as a table; `test_trainer.py` checks the files of a run."""

import errno
import json
from types import SimpleNamespace

import pytest

from clipvip_jax.training import final_evaluation
from clipvip_jax.training.final_evaluation import format_results
from clipvip_jax.utils.log import log


def split_metrics(recall):
  metrics = {"R@1": recall, "R@5": 0.5, "R@10": 1.0, "median_rank": 2.0, "mean_rank": 3.0}
  directions = {"text_to_video": metrics, "video_to_text": metrics}
  return {"size": 9, "queries": 9, "duplicate_queries": 0, "plain": directions, "dsl": directions}


def rows(text):
  return [line.split() for line in text.splitlines()]


def test_formats_each_split_with_plain_and_dual_softmax_results():
  results = {
    "evaluated": {"name": "mine/full/1.0.0"},
    "splits": {"test": split_metrics(0.25), "val": split_metrics(0.75)},
  }
  tables = format_results(results).split("\n\n")
  for table, split, recall in zip(tables, ("test", "val"), ("25.0", "75.0"), strict=True):
    assert table.startswith(f"{split}: 9 clips; 9 queries")
    assert ["Text", "to", "video", recall, "50.0", "100.0", "2.0", "3.0"] in rows(table)
    assert ["Video", "to", "text,", "dual", "softmax", recall, "50.0", "100.0", "2.0", "3.0"] in rows(table)
    assert "published" not in table and "95%" not in table


def test_shows_published_results_of_a_known_test_set():
  results = {"evaluated": {"name": "msrvtt/9k/1.0.0"}, "splits": {"test": split_metrics(0.25)}}
  assert "published on MSR-VTT" in format_results(results)


@pytest.mark.parametrize("extended", [True, False])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()], ids=repr)
def test_a_run_without_its_report_has_no_new_results(tmp_path, monkeypatch, error, extended):
  def fail(*_):
    raise error

  folder = SimpleNamespace(address=str(tmp_path))
  components = SimpleNamespace(workdir=tmp_path, folder=folder, mesh=None)
  state, tracker = SimpleNamespace(eval_params={}), SimpleNamespace(log_results=lambda *_: None)
  evaluation = final_evaluation.FinalEvaluation(12, state, "the last step", {})
  monkeypatch.setattr(final_evaluation, "_results", lambda *_: {"splits": {}, "step": 12})
  monkeypatch.setattr(final_evaluation.sharding, "replicate", lambda mesh, params: params)
  path = tmp_path / "results.json"
  if extended:  # of the shorter run
    path.write_text("old")
  with monkeypatch.context() as patch, pytest.raises(type(error)):
    patch.setattr(final_evaluation.report, "write_report", fail)
    final_evaluation.write_results(components, evaluation, [], tracker)
  assert path.read_text() == "old" if extended else not path.exists()
  monkeypatch.setattr(final_evaluation.report, "write_report", lambda path, *_: path.touch())
  final_evaluation.write_results(components, evaluation, [], tracker)
  assert json.loads(path.read_text())["step"] == 12 and (tmp_path / "report.html").exists()


@pytest.mark.parametrize("restorable", [True, False])
def test_results_say_if_no_checkpoint_with_a_score_can_be_restored(restorable, caplog, monkeypatch):
  monkeypatch.setattr(log, "propagate", True)
  last, best = (SimpleNamespace(step=step, eval_params={}) for step in (12, 6))
  checkpoints = SimpleNamespace(best_step=lambda: 6, restore_best=lambda abstract: best if restorable else None)
  evaluate = SimpleNamespace(selection_split="validation", final_splits=("test",))
  components = SimpleNamespace(config=SimpleNamespace(evaluate=evaluate), abstract_state=None)
  evaluator = SimpleNamespace(evaluate=lambda params, split: split)
  evaluation = final_evaluation.evaluate_best(components, evaluator, checkpoints, last)
  assert evaluation.state is (best if restorable else last) and evaluation.last_step == 12
  assert evaluation.best_by.startswith("plain text-to-video R@1" if restorable else "the last step")
  assert ("no checkpoint with a score can be restored" in caplog.text) != restorable
