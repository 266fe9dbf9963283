"""TensorBoard event files: a resumed run supersedes the events that it writes again."""

import errno
import subprocess
import sys

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray

from clipvip_jax.tracking.tensorboard import EventWriter
from clipvip_jax.tracking.tracker import TrackedRun
from clipvip_jax.utils.log import log


def start(workdir, first_step=0):
  writer = EventWriter()
  writer.start(TrackedRun(workdir, {}, first_step))
  return writer


def write(workdir, first_step, losses):
  write_steps(start(workdir, first_step), first_step, losses)


def write_steps(writer, first_step, losses):
  for step, loss in enumerate(losses, first_step + 1):
    writer.log_metrics(step, {"train/loss": loss})


def read(workdir):
  """[(step, loss)] as TensorBoard shows them."""
  accumulator = EventAccumulator(str(workdir)).Reload()
  return [(event.step, make_ndarray(event.tensor_proto).item()) for event in accumulator.Tensors("train/loss")]


def test_a_resumed_run_replaces_the_events_after_its_first_step(tmp_path):
  write(tmp_path, 0, [1.0, 2.0, 3.0])
  write(tmp_path, 1, [4.0, 5.0, 6.0])
  assert read(tmp_path) == [(1, 1.0), (2, 4.0), (3, 5.0), (4, 6.0)]
  write(tmp_path, 3, [7.0])
  assert read(tmp_path) == [(1, 1.0), (2, 4.0), (3, 5.0), (4, 7.0)]


def test_a_truncated_file_keeps_its_first_events(tmp_path):
  write(tmp_path, 0, [1.0, 2.0, 3.0])
  (path,) = tmp_path.iterdir()
  path.write_bytes(path.read_bytes()[:-9])
  write(tmp_path, 1, [4.0])
  assert read(tmp_path) == [(1, 1.0), (2, 4.0)]


def test_a_file_that_cannot_be_written_gives_one_warning(tmp_path, caplog, monkeypatch):
  writer = start(tmp_path)
  (path,) = tmp_path.iterdir()
  path.unlink()
  path.mkdir()
  monkeypatch.setattr(log, "propagate", True)
  write_steps(writer, 0, [1.0, 2.0])
  assert [record.getMessage() for record in caplog.records] == [
    f"{path.name}: Is a directory; continuing without TensorBoard curves"
  ]


@pytest.mark.parametrize("refused", ["reading", "writing"])
def test_events_that_cannot_be_replaced_give_one_warning(tmp_path, caplog, monkeypatch, refused):
  write(tmp_path, 0, [1.0, 2.0])
  (path,) = tmp_path.iterdir()
  before = path.read_bytes()

  def refuse(*_):
    raise OSError(errno.EACCES, "Permission denied", str(path))

  name = {"reading": "tensorboard._read_events", "writing": "tensorboard.atomic_write.atomic_path"}[refused]
  monkeypatch.setattr(f"clipvip_jax.tracking.{name}", refuse)
  monkeypatch.setattr(log, "propagate", True)
  write(tmp_path, 1, [3.0, 4.0])
  assert [record.getMessage() for record in caplog.records] == [
    f"{path.name}: Permission denied; continuing without TensorBoard curves"
  ]
  assert list(tmp_path.iterdir()) == [path] and path.read_bytes() == before


def test_tensorflow_is_not_imported(tmp_path):
  code = (
    "import pathlib, sys; from clipvip_jax.tracking.open_trackers import open_trackers\n"
    "for step in (0, 1):\n"
    "  with open_trackers(['tensorboard'], pathlib.Path(), {}, step) as tracker: tracker.log_metrics(2, {'a': 0.5})\n"
    "assert 'tensorboard' in sys.modules and 'tensorflow' not in sys.modules"
  )
  subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=60)


def test_a_folder_with_the_name_of_an_event_file_stops_no_run(tmp_path):
  (tmp_path / "events.out.tfevents.1.host").mkdir()
  start(tmp_path).log_metrics(1, {"train/loss": 2.0})
  assert len(list(tmp_path.iterdir())) == 2
