"""Trackers that raise, hang or crash: the run is not delayed, and says it once."""

import json
import time

import pytest
from odd_trackers import FAILURES

from clipvip_jax.tracking.background import BackgroundTracker
from clipvip_jax.tracking.tracker import TrackedRun
from clipvip_jax.utils.log import log

NAME = "odd_trackers:Fails"
CALLS = ("start", "metrics", "results", "finish")
RECORDS = 40
HANG_SECONDS = 1.0  # limit of `finish` for a tracker that hangs


@pytest.fixture
def warnings(caplog, monkeypatch):
  monkeypatch.setattr(log, "propagate", True)
  return lambda: [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


def run(workdir, **options):
  """Seconds of a run's calls before `finish`, and of `finish`."""
  tracker = BackgroundTracker(NAME, **options)
  report = workdir / "report.html"
  report.write_text("report")
  begin = time.monotonic()
  tracker.start(TrackedRun(workdir, {}, 0))
  for step in range(1, RECORDS + 1):
    tracker.log_metrics(step, {"train/loss": 1.0})
  tracker.log_results(RECORDS, {"final": 0.5}, report)
  end = time.monotonic()
  tracker.finish("finished")
  return end - begin, time.monotonic() - end


def fail(monkeypatch, failure, call):
  monkeypatch.setenv("TRACKER_FAILS_IN", call)
  monkeypatch.setenv("ODD_TRACKER", failure)
  monkeypatch.setenv("TRACKER_PASSWORD", "sword fish")


def recorded(workdir):
  path = workdir / "recorded.jsonl"
  return [json.loads(line)[0] for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.parametrize("call", CALLS)
def test_a_tracker_that_raises_is_reported_once_without_secrets(tmp_path, monkeypatch, warnings, call):
  fail(monkeypatch, "raises", call)
  before, _ = run(tmp_path)
  assert before < 1.0
  message = "ConnectionError: no route to https://***@host"
  assert warnings() == [f"tracker {NAME}: {message}; the run continues, later failures are not logged"]
  expected = ["start", *["metrics"] * RECORDS, "results", "finish"] if call != "start" else []
  assert recorded(tmp_path) == [name for name in expected if name != call]


@pytest.mark.parametrize("call", CALLS)
def test_a_tracker_that_hangs_is_killed_after_a_limited_time(tmp_path, monkeypatch, warnings, call):
  fail(monkeypatch, "hangs", call)
  before, finish = run(tmp_path, close_seconds={"finished": HANG_SECONDS})
  assert before < 1.0 and HANG_SECONDS <= finish < HANG_SECONDS + 1.0
  (warning,) = warnings()
  assert warning.startswith(
    f"tracker {NAME}: it does not end within 1 s (is its server reachable?) and is killed; the run"
  )


def test_a_full_queue_drops_records_and_counts_them(tmp_path, monkeypatch, warnings, caplog):
  caplog.set_level("INFO", logger=log.name)
  fail(monkeypatch, "hangs", "start")
  before, finish = run(tmp_path, capacity=1, close_seconds={"finished": HANG_SECONDS})
  assert before < 1.0 and finish < HANG_SECONDS + 1.0
  (warning,) = warnings()
  assert "it is too slow: 1 records wait for it, and further ones are dropped; the run continues" in warning
  count = int(caplog.messages[-1].removeprefix(f"tracker {NAME}: ").removesuffix(" records were dropped"))
  assert RECORDS - 200 < count <= RECORDS + 1


def test_a_crash_is_reported_once(tmp_path, monkeypatch, warnings):
  fail(monkeypatch, "crashes", "metrics")
  before, finish = run(tmp_path, capacity=4 * RECORDS)
  assert before < 1.0 and finish < 20.0
  (warning,) = warnings()
  assert warning.startswith(f"tracker {NAME}: its process crashed (SIGSEGV); the run continues")


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(("failure", "code"), [("exits", 0), ("quits", 1)])
def test_a_process_that_ends_early_is_reported_once_whatever_its_exit_code(
  tmp_path, monkeypatch, warnings, failure, code, call
):
  fail(monkeypatch, failure, call)
  run(tmp_path)
  (warning,) = warnings()
  assert warning.startswith(f"tracker {NAME}: its process crashed (exit code {code}); the run continues")


def test_a_process_that_cannot_be_started_is_reported(tmp_path, monkeypatch, warnings):
  monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
  run(tmp_path)
  (warning,) = warnings()
  assert warning.startswith(f"tracker {NAME}: its process cannot be started (No such file or directory); the run")


def test_output_and_input_of_a_package_do_not_mix_with_requests(tmp_path, monkeypatch, warnings):
  assert "talks" in FAILURES
  fail(monkeypatch, "talks", "start metrics results finish")
  run(tmp_path)
  assert recorded(tmp_path) == ["start", *["metrics"] * RECORDS, "results", "finish"]
  assert not warnings()
