"""TensorBoard event files: a resumed run supersedes the events that it writes again."""

import subprocess
import sys

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray

from clipvip_jax.training.tensorboard import EventWriter
from clipvip_jax.utils.log import log


def write(workdir, first_step, losses):
  write_steps(EventWriter(workdir, first_step, enabled=True), first_step, losses)


def write_steps(writer, first_step, losses):
  for step, loss in enumerate(losses, first_step + 1):
    writer.write_scalars(step, {"train/loss": loss})


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


def test_a_process_that_does_not_write_leaves_no_file(tmp_path):
  EventWriter(tmp_path, 3, enabled=False).write_scalars(4, {"train/loss": 1.0})
  assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_written_gives_one_warning(tmp_path, caplog, monkeypatch):
  writer = EventWriter(tmp_path, 0, enabled=True)
  (path,) = tmp_path.iterdir()
  path.unlink()
  path.mkdir()
  monkeypatch.setattr(log, "propagate", True)
  write_steps(writer, 0, [1.0, 2.0])
  assert [record.getMessage() for record in caplog.records] == [
    f"{path.name}: Is a directory; continuing without TensorBoard curves"
  ]


def test_tensorflow_is_not_imported(tmp_path):
  code = (
    "import pathlib, sys; from clipvip_jax.training.tensorboard import EventWriter as E; folder = pathlib.Path()\n"
    "E(folder, 0, enabled=True).write_scalars(1, {'a': 0.5}); E(folder, 0, enabled=True)\n"
    "assert 'tensorboard' in sys.modules and 'tensorflow' not in sys.modules"
  )
  subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=60)


def test_a_folder_with_the_name_of_an_event_file_stops_no_run(tmp_path):
  (tmp_path / "events.out.tfevents.1.host").mkdir()
  EventWriter(tmp_path, 0, enabled=True).write_scalars(1, {"train/loss": 2.0})
  assert len(list(tmp_path.iterdir())) == 2
