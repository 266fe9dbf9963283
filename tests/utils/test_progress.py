"""Progress lines and durations."""

import threading

import pytest

from clipvip_jax.utils import progress


@pytest.fixture
def clock(monkeypatch):
  now = [100.0]
  monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
  return now


@pytest.mark.parametrize(
  ("seconds", "text"), [(0, "0s"), (59.4, "59s"), (60, "1m00s"), (185, "3m05s"), (7800, "2h10m")]
)
def test_format_duration(seconds, text):
  assert progress.format_duration(seconds) == text


def test_line_has_count_rate_and_time_left(clock):
  reporter = progress.ProgressReporter(1000, "videos", print)
  assert reporter.line(0) == "0/1000 videos | 0s elapsed"
  clock[0] += 30
  assert reporter.line(120) == "120/1000 videos | 4.0 videos/s | 3m40s left"
  assert reporter.line(3) == "3/1000 videos | 0.1 videos/s | 2h46m left"


def test_update_reports_at_most_once_per_interval(clock):
  lines: list[str] = []
  reporter = progress.ProgressReporter(10, "clips", lines.append, interval=5.0)
  for done in range(1, 11):
    clock[0] += 2
    reporter.update(done)
  assert [line.split(" | ")[0] for line in lines] == ["3/10 clips", "6/10 clips", "9/10 clips"]


def test_polling_reports_from_a_thread_until_the_context_closes():
  lines: list[str] = []
  reported = threading.Event()

  def report(line):
    lines.append(line)
    reported.set()

  before = {*threading.enumerate()}
  with progress.ProgressReporter(4, "shards", report, interval=0.01).polling(lambda: 3):
    assert reported.wait(10)
  assert {*threading.enumerate()} <= before
  assert lines[0].startswith("3/4 shards | ")


def test_report_periodically_stops_when_the_work_raises():
  before = {*threading.enumerate()}
  with pytest.raises(ValueError, match="from the work"), progress.report_periodically(lambda: "", interval=60):
    raise ValueError("from the work")
  assert {*threading.enumerate()} <= before
