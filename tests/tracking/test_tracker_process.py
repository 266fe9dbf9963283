"""The process of a tracker: nothing is recorded twice, and failures are reported without secrets."""

import json
import os
import signal
import subprocess
import sys

import pytest
from tracked_run import CONFIG

from clipvip_jax.tracking.tracker_process import track

NAME = "odd_trackers:Recorder"


def serve(workdir, *requests, name=NAME):
  """(calls of the tracker, failures)."""
  failures = []
  path = workdir / "recorded.jsonl"
  path.unlink(missing_ok=True)
  start = ["start", {"workdir": str(workdir), "config": CONFIG, "first_step": 0, "id": ""}]
  track(name, [start, *requests], failures.append)
  return [json.loads(line) for line in path.read_text().splitlines()], failures


def metrics(step, **values):
  return ["metrics", step, values]


def test_a_resumed_run_keeps_its_id_and_each_metric_is_recorded_once_per_step(tmp_path):
  serve(tmp_path, metrics(1, loss=1.0), metrics(2, loss=2.0), metrics(2, recall=0.5), metrics(3, loss=3.0))
  calls, failures = serve(tmp_path, metrics(2, loss=2.5), metrics(3, loss=3.5, recall=0.6), metrics(4, loss=4.0))
  assert calls == [
    ["start", "the id", 0, CONFIG],
    ["metrics", 3, {"recall": 0.6}],
    ["metrics", 4, {"loss": 4.0}],
    ["finish", "failed"],  # the run ended without a status
  ]
  assert not failures


def test_a_report_is_recorded_again_if_it_changed(tmp_path):
  report = tmp_path / "report.html"
  results = ["results", 9, {"final/test": 0.5}, str(report)]
  for text, count in (("one", 1), ("one", 0), ("two", 1)):
    report.write_text(text)
    calls, _ = serve(tmp_path, results, ["finish", "finished"])
    assert calls[1:] == [["results", 9, {"final/test": 0.5}, text]] * count + [["finish", "finished"]]


def test_a_record_that_failed_is_reported_and_may_be_repeated(tmp_path, monkeypatch):
  monkeypatch.setenv("TRACKER_FAILS_IN", "metrics")
  monkeypatch.setenv("ODD_TRACKER", "raises")
  monkeypatch.setenv("TRACKER_PASSWORD", "swordfish")
  _, failures = serve(tmp_path, metrics(1, loss=1.0), metrics(2, loss=2.0), name="odd_trackers:Fails")
  assert [type(failure) for failure in failures] == [ConnectionError] * 2
  monkeypatch.setenv("TRACKER_FAILS_IN", "none")
  calls, failures = serve(tmp_path, metrics(2, loss=2.0), name="odd_trackers:Fails")
  assert calls[1] == metrics(2, loss=2.0) and not failures


def test_a_run_that_was_killed_while_it_sent_a_request_failed(tmp_path):
  start = ["start", {"workdir": str(tmp_path), "config": CONFIG, "first_step": 0, "id": ""}]
  lines = [*map(json.dumps, (start, metrics(1, loss=1.0))), '["metrics", 2, {"lo']
  with pytest.raises(json.JSONDecodeError):
    track(NAME, map(json.loads, lines), pytest.fail)
  calls = [json.loads(line) for line in (tmp_path / "recorded.jsonl").read_text().splitlines()]
  assert calls[1:] == [metrics(1, loss=1.0), ["finish", "failed"]]


def test_a_corrupt_record_is_named(tmp_path):
  serve(tmp_path)
  (path,) = (tmp_path / "trackers").iterdir()
  assert path.name == "odd_trackers_Recorder.json"
  path.write_text('{"id": 3')
  with pytest.raises(ValueError, match=r"odd_trackers_Recorder\.json cannot be read .*delete it to track the rest"):
    serve(tmp_path)


@pytest.mark.parametrize("call", ["metrics", "finish"])
def test_a_tracker_that_hangs_does_not_outlive_a_run_that_was_killed(tmp_path, monkeypatch, call):
  monkeypatch.setenv("TRACKER_FAILS_IN", call)
  monkeypatch.setenv("ODD_TRACKER", "hangs")
  monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
  code = "from clipvip_jax.tracking import tracker_process; tracker_process.END_SECONDS = 1; tracker_process.serve()"
  run = ["start", {"workdir": str(tmp_path), "config": CONFIG, "first_step": 0, "id": ""}]
  requests = [run, *(metrics(step, loss=1.0) for step in range(10))]
  content = "".join(json.dumps(request) + "\n" for request in requests).encode()
  command = [sys.executable, "-c", code, "odd_trackers:Fails"]
  process = subprocess.run(command, input=content, stdout=subprocess.PIPE, timeout=60, check=False)
  assert process.returncode == -signal.SIGALRM and not process.stdout
