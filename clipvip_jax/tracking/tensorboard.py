"""TensorBoard event files, written and read without TensorFlow, whose import takes longer than the rest of a start."""

import os
import pathlib
import socket
import time
from collections.abc import Iterator, Mapping

from clipvip_jax.tracking.tracker import Status, TrackedRun, Tracker
from clipvip_jax.utils import atomic_write
from clipvip_jax.utils.log import log


class EventWriter(Tracker):
  """Writes scalars to a new event file of the workdir; each call leaves a readable file.

  A file that cannot be read or written is reported once; training continues. Events of steps after `first_step` are
  removed from existing files: a resumed run writes them again.
  """

  def __init__(self) -> None:
    self._path: pathlib.Path | None = None

  def start(self, run: TrackedRun) -> str:
    """Starts an event file; its folder identifies the run."""
    try:
      _remove_later_events(run.workdir, run.first_step)
    except OSError as error:
      self._report(error)
      return ""
    name = f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}.{os.getpid()}"
    self._path = run.workdir / name
    self._append(file_version="brain.Event:2")
    return ""

  def log_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
    """Appends an event."""
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.scalar.summary_v2 import scalar_pb

    summary = Summary()
    for tag, value in metrics.items():
      summary.value.extend(scalar_pb(tag, value).value)
    self._append(step=step, summary=summary)

  def log_results(self, step: int, results: Mapping[str, float], report: pathlib.Path) -> None:
    """Writes nothing: the report lies in the same folder."""

  def finish(self, status: Status) -> None:
    """Writes nothing: the file is complete after each event."""

  def _append(self, **fields: object) -> None:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.summary.writer.record_writer import RecordWriter

    if self._path is None:
      return
    try:
      with self._path.open("ab") as file:
        RecordWriter(file).write(Event(wall_time=time.time(), **fields).SerializeToString())
    except OSError as error:
      self._report(error)
      self._path = None

  def _report(self, error: OSError) -> None:
    name = pathlib.Path(error.filename or self._path or "event file").name
    log.warning("%s: %s; continuing without TensorBoard curves", name, error.strerror or error)


def _remove_later_events(workdir: pathlib.Path, step: int) -> None:
  """Removes events after `step` from all event files.

  TensorBoard has an event for this (SessionLog.START), which not all of its readers observe.
  """
  from tensorboard.compat.proto.event_pb2 import Event
  from tensorboard.summary.writer.record_writer import RecordWriter

  for path in filter(pathlib.Path.is_file, workdir.glob("events.out.tfevents.*")):
    events = list(_read_events(path))
    kept = [event for event in events if Event.FromString(event).step <= step]
    if len(kept) < len(events):
      with atomic_write.atomic_path(path) as temporary, temporary.open("wb") as file:
        writer = RecordWriter(file)
        for event in kept:
          writer.write(event)


def _read_events(path: pathlib.Path) -> Iterator[bytes]:
  """Yields the serialized events of a file up to the first corrupt one, as TensorBoard does."""
  from tensorboard.compat.tensorflow_stub import errors, pywrap_tensorflow

  reader = pywrap_tensorflow.PyRecordReader_New(str(path))
  try:
    while True:
      reader.GetNext()
      yield reader.record()
  except (errors.OutOfRangeError, errors.DataLossError):
    return
