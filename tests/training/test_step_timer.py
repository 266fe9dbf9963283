"""Training speed, waiting time and time left, on a simulated clock."""

import pytest

from clipvip_jax.training import step_timer


@pytest.fixture
def clock(monkeypatch):
  """[seconds]: the time that the timer reads."""
  now = [100.0]
  monkeypatch.setattr(step_timer.time, "monotonic", lambda: now[0])
  return now


def test_measures_speed_waiting_and_time_left_after_compilation(clock):
  timer = step_timer.StepTimer(first_step=0, total_steps=101, batch_size=8)
  clock[0] += 50  # compilation
  timer.add_data_wait(40)
  timer.finish_step(1)
  clock[0] += 20
  timer.add_data_wait(5)
  timer.finish_step(11)
  speed = timer.report(11)
  assert speed == pytest.approx({"clips_per_second": 4.0, "data_wait": 0.25, "seconds_left": 180.0})
  line = timer.format_line(11, 1.5, speed)
  assert line == "step 11/101 | loss 1.5000 | 4.0 clips/s | waiting for data 25% | 3m00s left"


def test_each_report_covers_the_time_since_the_last_one(clock):
  timer = step_timer.StepTimer(first_step=0, total_steps=100, batch_size=8)
  timer.finish_step(1)
  clock[0] += 10
  timer.add_data_wait(10)
  timer.report(11)
  clock[0] += 5
  assert timer.report(21) == pytest.approx({"clips_per_second": 16.0, "data_wait": 0.0, "seconds_left": 59.25})


def test_pauses_count_for_the_time_left_but_not_for_the_speed(clock):
  timer = step_timer.StepTimer(first_step=0, total_steps=21, batch_size=8)
  timer.finish_step(1)
  clock[0] += 10
  timer.add_pause(6)
  speed = timer.report(11)
  assert speed["clips_per_second"] == pytest.approx(20.0)
  assert speed["seconds_left"] == pytest.approx(10.0)


def test_the_first_report_after_compilation_has_no_speed(clock):
  timer = step_timer.StepTimer(first_step=4, total_steps=10, batch_size=8)
  clock[0] += 30
  timer.finish_step(5)
  assert timer.format_line(5, 2.0, timer.report(5)) == "step 5/10 | loss 2.0000 | compiled"
