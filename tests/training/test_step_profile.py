"""Traces of training steps: which steps they hold, where they are, and what happens when they fail."""

import contextlib

import jax
import jax.numpy as jnp
import pytest

from clipvip_jax.runs.run_folder import RunFolder
from clipvip_jax.training.step_profile import StepProfiler, parse_steps
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import log


@pytest.mark.parametrize(
  ("text", "steps"), [("", range(0)), ("10-15", range(10, 16)), ("10", range(10, 11)), ("1-20", range(1, 21))]
)
def test_steps_are_a_range_that_includes_its_end(text, steps):
  assert parse_steps(text, 20) == steps


@pytest.mark.parametrize(
  "text", ["0", "0-5", "5-4", "5-", "-5", "a", "1-2-3", "1,2", "5 - 6", "\N{ARABIC-INDIC DIGIT FIVE}"]
)
def test_another_form_is_refused(text):
  with pytest.raises(UserError, match=r'host\.profile_steps=.* is not a range of steps; use FIRST-LAST, as in "10-15"'):
    parse_steps(text, 20)


def test_steps_after_the_end_of_the_run_are_refused():
  with pytest.raises(UserError, match=r"host\.profile_steps='10-21' exceeds the 20 steps of the run; use at most 20"):
    parse_steps("10-21", 20)


class Folder(RunFolder):
  """Counts requests for uploads."""

  uploads = 0

  def request_upload(self):
    self.uploads += 1


@pytest.fixture
def folder(tmp_path, caplog):
  caplog.set_level("INFO", logger=log.name)
  return Folder(tmp_path)


def run_steps(folder, steps, first_step=0, end=6, stop_after=None):
  """Runs a function as a training loop does; returns the pauses."""
  pauses, function, state = [], jax.jit(lambda x: x + 1), jnp.zeros(())
  with contextlib.closing(StepProfiler(steps, folder, first_step, pauses.append)) as profiler:
    for step in range(first_step + 1, end + 1):
      with profiler.start_step(step, state):
        state = function(state)
      profiler.finish_step(step, state)
      if step == stop_after:
        break
  return pauses


def traced_steps(folder):
  """Numbers of the steps that the traces in a folder hold."""
  numbers = []
  for path in sorted((folder.path / "profile").rglob("*.xplane.pb")):
    data = jax.profiler.ProfileData.from_file(str(path))
    events = [event for plane in data.planes for line in plane.lines for event in line.events if event.name == "train"]
    numbers += [dict(event.stats)["step_num"] for event in events]
  return sorted(numbers)


def test_traces_the_steps_of_the_range_and_tells_how_to_open_them(folder, caplog):
  pauses = run_steps(folder, range(2, 5))
  assert traced_steps(folder) == [2, 3, 4]
  assert (
    f"traced steps 2 to 4; to see them: pip install xprof, then xprof --logdir={folder.path}/profile" in caplog.text
  )
  assert folder.uploads == 1 and len(pauses) == 2 and min(pauses) > 0


def test_an_interruption_writes_the_steps_until_then(folder, caplog):
  run_steps(folder, range(2, 5), stop_after=3)
  assert traced_steps(folder) == [2, 3] and "traced steps 2 to 3;" in caplog.text
  with jax.profiler.trace(folder.path / "other"):  # no trace is open
    pass


def test_a_resumed_run_traces_the_rest_of_the_range(folder, caplog):
  run_steps(folder, range(2, 5), first_step=3)
  assert traced_steps(folder) == [4] and "steps 2 to 3 are done and not traced" in caplog.text
  run_steps(Folder(folder.path / "second"), range(2, 5), first_step=5)
  assert "steps 2 to 4 are done and not traced" in caplog.text and not (folder.path / "second").exists()


def test_a_trace_that_cannot_start_or_be_written_is_a_warning(folder, caplog):
  with jax.profiler.trace(folder.path / "other"):
    run_steps(folder, range(2, 5))
  assert "no trace is written (Profile has already been started" in caplog.text and not folder.uploads
