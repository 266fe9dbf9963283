"""Stops a run whose loss or gradient is not finite, before a checkpoint holds the result."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Array, Int

from clipvip_jax.input_pipeline.pipeline import WeightedStream
from clipvip_jax.input_pipeline.record_text import record_text
from clipvip_jax.runs.checkpoint import Checkpoints
from clipvip_jax.utils.errors import UserError


class DivergenceCheck:
  """Checks the metrics of a step after the next one is dispatched, so that the host does not wait for each step."""

  def __init__(self, streams: Sequence[WeightedStream], checkpoints: Checkpoints):
    """Args: `streams` hold the records that an error names, `checkpoints` the step that it recommends."""
    self._streams, self._checkpoints = streams, checkpoints
    self._pending: tuple[int, Mapping[str, Array | float], Int[np.ndarray, "b 2"]] | None = None

  def defer(self, step: int, metrics: Mapping[str, Array | float], records: Int[np.ndarray, "b 2"]) -> None:
    """Keeps the metrics of a step for the next `check`.

    Args:
      step: updates done.
      metrics: `loss` and `grad_norm` of the update.
      records: (stream, record) of each clip of the batch; record -1 is padding.
    """
    self._pending = (step, metrics, records)

  def check(self) -> None:
    """Waits for the deferred metrics and checks them.

    Raises:
      UserError: a value is not finite; names the records of the batch and the newest checkpoint.
    """
    if self._pending is None:
      return
    (step, metrics, records), self._pending = self._pending, None
    loss, grad_norm = float(metrics["loss"]), float(metrics["grad_norm"])
    if np.isfinite(loss) and np.isfinite(grad_norm):
      return
    ids = [record_text(self._streams[stream].batcher.records[int(i)], "id") for stream, i in records if i >= 0]
    steps = self._checkpoints.steps()
    newest = f"the newest checkpoint is step {steps[-1]}" if steps else "there is no checkpoint"
    raise UserError(
      f"step {step}: loss {loss}, gradient norm {grad_norm}; stopped, {newest}. Records of the batch: {', '.join(ids)}."
      " Inspect them, or try a smaller optimizer.learning_rate or model.dtype=float32"
    )
