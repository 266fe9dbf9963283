"""The trackers of a run: what they receive, and its status."""

import contextlib
import json
import pathlib
import pwd

import pytest

from clipvip_jax.tracking.open_trackers import open_trackers
from clipvip_jax.utils.errors import Terminated


def calls(workdir):
  return [json.loads(line) for line in (workdir / "recorded.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
  ("error", "status"), [(None, "finished"), (ValueError(), "failed"), (Terminated(15, ""), "stopped")], ids=repr
)
def test_the_status_is_the_outcome_of_the_block(tmp_path, error, status):
  home = str(pathlib.Path.home())
  config = {"data": {"data_dir": f"{home}/sets", "splits": (home, f"{home}2"), "weight": 1.5}}
  with (
    contextlib.suppress(ValueError, Terminated),
    open_trackers(["odd_trackers:Recorder", "tensorboard"], tmp_path, config, 4) as tracker,
  ):
    tracker.log_metrics(5, {"train/loss": 2.0})
    if error:
      raise error
  sent = {"data": {"data_dir": "~/sets", "splits": ["~", f"{home}2"], "weight": 1.5}}
  assert calls(tmp_path) == [["start", "", 4, sent], ["metrics", 5, {"train/loss": 2.0}], ["finish", status]]
  assert len(list(tmp_path.glob("events.out.tfevents.*"))) == 1


def test_no_tracker_leaves_no_file(tmp_path):
  with open_trackers([], tmp_path, {}, 0) as tracker:
    tracker.log_metrics(1, {"train/loss": 2.0})
    tracker.log_results(1, {}, tmp_path / "report.html")
  assert not list(tmp_path.iterdir())


def test_a_user_without_a_home_directory_trains(tmp_path, monkeypatch):
  def unknown(uid):
    raise KeyError(uid)

  monkeypatch.delenv("HOME")
  monkeypatch.setattr(pwd, "getpwuid", unknown)
  with open_trackers(["tensorboard"], tmp_path, {"data": {"data_dir": "~/sets"}}, 0) as tracker:
    tracker.log_metrics(1, {"train/loss": 2.0})
  assert len(list(tmp_path.glob("events.out.tfevents.*"))) == 1
