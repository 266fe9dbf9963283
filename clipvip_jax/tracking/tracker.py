"""Interface of a tracker: a service or a file format that records the config, metrics and report of runs.

`host.tracker=MODULE:CLASS` names a class that implements it.
"""

import abc
import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any, Literal

# "stopped": by a signal, after which the same command resumes the run. "failed": by an error, or killed.
Status = Literal["finished", "stopped", "failed"]


@dataclasses.dataclass(frozen=True)
class TrackedRun:
  """A run that starts or resumes.

  Attributes:
    workdir: the run's folder.
    config: content of config.json; paths in the home directory begin with ~.
    first_step: completed updates.
    id: the id that `Tracker.start` returned when the run was started; "" for a new run.
  """

  workdir: pathlib.Path
  config: Mapping[str, Any]
  first_step: int
  id: str = ""


class Tracker(abc.ABC):
  """Records runs. Constructed without arguments; `start` is called first and `finish` last.

  Other trackers than TensorBoard run in a process of their own (see background.py), which calls one method at a time.
  A method may raise or take any time: the run continues.
  """

  @abc.abstractmethod
  def start(self, run: TrackedRun) -> str:
    """Starts to record a run, or continues the record `run.id`, and returns its id."""

  @abc.abstractmethod
  def log_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
    """Records metrics by name, such as "train/loss", after `step` updates.

    Steps increase, except that a resumed run repeats the steps after its checkpoint; repeated metrics are not passed.
    """

  @abc.abstractmethod
  def log_results(self, step: int, results: Mapping[str, float], report: pathlib.Path) -> None:
    """Records the metrics of the final evaluation, such as "final/test/plain/text_to_video/R@1", and report.html."""

  @abc.abstractmethod
  def finish(self, status: Status) -> None:
    """Completes the record. It is continued if the run resumes."""
