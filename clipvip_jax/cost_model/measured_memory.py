"""Memory that a run has measured, to compare with the estimate for its step."""

import pathlib
import re

from ml_collections import ConfigDict

from clipvip_jax.runs import metrics_history
from clipvip_jax.runs.results import read_results
from clipvip_jax.utils import config_tree
from clipvip_jax.utils.errors import UserError

# Fields that change the memory of a step.
_FIELDS = re.compile(
  r"(model|mesh)\..*|loss|data\.(num_frames|text_length|pixels)|optimizer\.frozen|train\.(batch_size|ema|num_microbatches)"
)


def measured_memory(workdir: pathlib.PurePath, config: ConfigDict) -> float:
  """Returns the largest number of bytes in use on a device of process 0 of a finished run, evaluations included.

  Args:
    workdir: of the run.
    config: its configuration, up to fields that do not change the memory of a step.

  Raises:
    UserError: the run has no results, another configuration, or a backend that does not measure memory.
  """
  run = read_results(workdir)
  current = dict(config_tree.flatten(config_tree.to_json_dict(config)))
  fields = [field for field in current if _FIELDS.fullmatch(field) and current[field] != run.config.get(field)]
  if fields:
    both = "; ".join(f"{field}: {run.config.get(field)!r} there, {current[field]!r} here" for field in fields)
    raise UserError(f"--run={workdir} has another config ({both}); use the same values")
  _, values = metrics_history.train_curve(run.history, metrics_history.PEAK_MEMORY)
  if not values:
    raise UserError(f"--run={workdir} has no peak_memory in metrics.jsonl: its backend does not measure it; omit --run")
  return max(values)
