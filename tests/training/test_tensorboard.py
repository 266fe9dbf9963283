"""TensorBoard event files: a resumed run supersedes the events that it writes again."""

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray

from clipvip_jax.training import tensorboard


def write(workdir, first_step, losses):
  writer = tensorboard.create_writer(workdir, first_step, enabled=True)
  for step, loss in enumerate(losses, first_step + 1):
    writer.write_scalars(step, {"train/loss": loss})
  writer.close()


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
  tensorboard.create_writer(tmp_path, 3, enabled=False).close()
  assert not list(tmp_path.iterdir())
