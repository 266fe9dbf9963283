"""The trackers of a run, as one."""

import contextlib
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from clipvip_jax.tracking.background import BackgroundTracker
from clipvip_jax.tracking.names import TENSORBOARD
from clipvip_jax.tracking.tensorboard import EventWriter
from clipvip_jax.tracking.tracker import Status, TrackedRun, Tracker
from clipvip_jax.utils.local_paths import expand_user


class TrackerGroup(Tracker):
  """Calls several trackers, or none, in order."""

  def __init__(self, trackers: Sequence[Tracker]):
    self._trackers = trackers

  def start(self, run: TrackedRun) -> str:
    """Starts all trackers. Their ids are their own."""
    for tracker in self._trackers:
      tracker.start(run)
    return ""

  def log_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
    """Passes metrics to all trackers."""
    for tracker in self._trackers:
      tracker.log_metrics(step, metrics)

  def log_results(self, step: int, results: Mapping[str, float], report: pathlib.Path) -> None:
    """Passes results to all trackers."""
    for tracker in self._trackers:
      tracker.log_results(step, results, report)

  def finish(self, status: Status) -> None:
    """Finishes all trackers."""
    for tracker in self._trackers:
      tracker.finish(status)


@contextlib.contextmanager
def open_trackers(
  names: Sequence[str], workdir: pathlib.Path, config: Mapping[str, Any], first_step: int
) -> Iterator[Tracker]:
  """Tracks the run of a `with` block, whose outcome is the status of the run.

  TensorBoard's files are written by this process, since they have no failure that the workdir's other files lack.

  Args:
    names: as `names.parse_names` returns them; none for a process that does not track.
    workdir: the run's folder.
    config: content of config.json.
    first_step: completed updates.
  """
  tracker = TrackerGroup([EventWriter() if name == TENSORBOARD else BackgroundTracker(name) for name in names])
  tracker.start(TrackedRun(workdir, _without_home(config), first_step))
  status: Status = "failed"
  try:
    yield tracker
    status = "finished"
  except KeyboardInterrupt:  # or Terminated
    status = "stopped"
    raise
  finally:
    tracker.finish(status)


def _without_home(config: Any) -> Any:
  """Abbreviates the home directory, which contains the name of the user, to ~ in all strings of a config."""
  if isinstance(config, Mapping):
    return {name: _without_home(value) for name, value in config.items()}
  if isinstance(config, list | tuple):
    return [_without_home(value) for value in config]
  home = expand_user("~")  # "~" itself for a user without a home, as in some containers
  return f"~{config.removeprefix(home)}" if isinstance(config, str) and f"{config}/".startswith(f"{home}/") else config
