"""Weights & Biases. WANDB_MODE, WANDB_PROJECT, WANDB_ENTITY and its other environment variables apply."""

import os
import pathlib
from collections.abc import Mapping

from clipvip_jax.tracking.tracker import Status, TrackedRun, Tracker

_STEP = "step"  # the metric that is the x-axis of all others


class WandbTracker(Tracker):
  """Records a run with wandb, which is imported by `start`.

  wandb counts rows by a step of its own, which never goes back: a resumed run online begins after its last row. Rows
  therefore have the updates as a metric, too.
  """

  def start(self, run: TrackedRun) -> str:
    """Starts or continues a run; files of wandb lie in the workdir unless WANDB_DIR names another folder."""
    import wandb

    is_new = not run.id
    self._html = wandb.Html
    self._run = wandb.init(
      project=os.environ.get("WANDB_PROJECT") or "clipvip_jax",
      name=os.environ.get("WANDB_NAME") or run.workdir.name if is_new else None,
      id=run.id or None,
      resume="allow",
      dir=os.environ.get("WANDB_DIR") or run.workdir,
      # This process is not the run: its command, its output and its folder would mislead.
      settings=wandb.Settings(console="off", silent=True, disable_code=True, disable_git=True, x_disable_meta=True),
    )
    self._run.config.update(dict(run.config), allow_val_change=True)
    self._run.define_metric(_STEP)
    self._run.define_metric("*", step_metric=_STEP)
    return self._run.id

  def log_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
    """Adds metrics to the row of a step."""
    self._log(step, metrics)

  def log_results(self, step: int, results: Mapping[str, float], report: pathlib.Path) -> None:
    """Sets the results in the run's summary, and adds the report as a page."""
    self._run.summary.update(dict(results))
    self._log(step, {"report": self._html(str(report), inject=False)})

  def finish(self, status: Status) -> None:
    """Uploads what remains."""
    self._run.finish(exit_code=0 if status == "finished" else 1)

  def _log(self, step: int, values: Mapping[str, object]) -> None:
    self._run.log({_STEP: step, **values}, step=max(step, self._run.step))
