"""MLflow. MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME and its other environment variables apply."""

import os
import pathlib
import re
from collections.abc import Mapping

from clipvip_jax.tracking.tracker import Status, TrackedRun, Tracker
from clipvip_jax.utils import config_tree

_EXPERIMENT = "clipvip_jax"
_STATUSES: dict[Status, str] = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
_MAX_PARAMS = 100  # in one request


class MlflowTracker(Tracker):
  """Records a run with MLflow, which is imported by `start`."""

  def start(self, run: TrackedRun) -> str:
    """Starts or continues a run. Its parameters are immutable: config.json, an artifact, has the current values."""
    import mlflow

    self._mlflow = mlflow
    if not run.id and not {"MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID", "MLFLOW_RUN_ID"} & os.environ.keys():
      mlflow.set_experiment(_EXPERIMENT)
    active = mlflow.start_run(run_id=run.id or None, run_name=None if run.id else run.workdir.name)
    if not run.id:
      params = [(_allowed(name), str(value)) for name, value in config_tree.flatten(run.config)]
      for start in range(0, len(params), _MAX_PARAMS):
        mlflow.log_params(dict(params[start : start + _MAX_PARAMS]))
    mlflow.log_dict(dict(run.config), "config.json")
    return active.info.run_id

  def log_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
    """Adds a value to each metric. MLflow allows no @ in a name: R@1 is R_at_1."""
    self._mlflow.log_metrics({_allowed(name): value for name, value in metrics.items()}, step=step)

  def log_results(self, step: int, results: Mapping[str, float], report: pathlib.Path) -> None:
    """Adds the results as metrics and the report as an artifact."""
    self.log_metrics(step, results)
    self._mlflow.log_artifact(str(report))

  def finish(self, status: Status) -> None:
    """Sets the run's status."""
    self._mlflow.end_run(_STATUSES[status])


def _allowed(name: str) -> str:
  """Replaces characters that MLflow does not allow in names of parameters and metrics."""
  return re.sub(r"[^/\w.\- ]", "_", name.replace("@", "_at_"))
