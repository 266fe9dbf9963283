"""TensorBoard event files."""

import pathlib
from typing import TYPE_CHECKING

from clipvip_jax.utils import atomic_write

if TYPE_CHECKING:
  from clu import metric_writers


def create_writer(workdir: pathlib.Path, first_step: int, *, enabled: bool) -> "metric_writers.MetricWriter":
  """Creates a clu writer of TensorBoard event files, or one that writes no file where not `enabled`.

  Events of steps after `first_step` are removed from existing files: a resumed run writes them again.

  clu and TensorFlow are imported here, since they take seconds; TensorFlow is kept from allocating GPU memory.
  """
  from clu import metric_writers

  if not enabled:
    return metric_writers.LoggingWriter()
  import tensorflow as tf

  _remove_later_events(workdir, first_step)
  tf.config.set_visible_devices([], "GPU")
  return metric_writers.AsyncWriter(metric_writers.SummaryWriter(str(workdir)))


def _remove_later_events(workdir: pathlib.Path, step: int) -> None:
  """Removes events after `step` from all event files.

  TensorBoard has an event for this (SessionLog.START), which not all of its readers observe.
  """
  from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
  from tensorboard.compat.proto.event_pb2 import Event
  from tensorboard.summary.writer.record_writer import RecordWriter

  for path in workdir.glob("events.out.tfevents.*"):
    events = list(RawEventFileLoader(str(path)).Load())  # up to the first corrupt one, as TensorBoard reads them
    kept = [event for event in events if Event.FromString(event).step <= step]
    if len(kept) < len(events):
      with atomic_write.atomic_path(path) as temporary, temporary.open("wb") as file:
        writer = RecordWriter(file)
        for event in kept:
          writer.write(event)
