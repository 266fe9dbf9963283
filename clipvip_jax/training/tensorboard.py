"""TensorBoard event files."""

import pathlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
  from clu import metric_writers


def create_writer(workdir: pathlib.Path, *, enabled: bool) -> "metric_writers.MetricWriter":
  """Creates a clu writer of TensorBoard event files, or one that writes no file where not `enabled`.

  clu and TensorFlow are imported here, since they take seconds; TensorFlow is kept from allocating GPU memory.
  """
  from clu import metric_writers

  if not enabled:
    return metric_writers.LoggingWriter()
  import tensorflow as tf

  tf.config.set_visible_devices([], "GPU")
  return metric_writers.AsyncWriter(metric_writers.SummaryWriter(str(workdir)))
