"""The line that a person reads."""

import pytest

from clipvip_jax.training import progress


def test_speed_waiting_and_time_left(monkeypatch):
  now = [100.0]
  monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
  meter = progress.Progress(first_step=0, total_steps=101, batch_size=8)
  now[0] += 50  # compilation
  meter.step_done(1)
  now[0] += 20
  meter.waited(5)
  meter.step_done(11)
  numbers = meter.report(11)
  assert numbers == pytest.approx({"clips_per_second": 4.0, "data_wait": 0.25, "seconds_left": 180.0})
  assert meter.line(11, 1.5, numbers) == "step 11/101 | loss 1.5000 | 4.0 clips/s | waiting for data 25% | 3m00s left"


def test_an_evaluation_slows_no_training_down_but_counts_for_the_time_left(monkeypatch):
  now = [0.0]
  monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
  meter = progress.Progress(first_step=0, total_steps=21, batch_size=8)
  meter.step_done(1)
  now[0] += 10
  meter.paused(6)
  numbers = meter.report(11)
  assert numbers["clips_per_second"] == pytest.approx(20.0)
  assert numbers["seconds_left"] == pytest.approx(10.0)
