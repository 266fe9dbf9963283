"""Stops a run whose loss is exactly 0 or not finite, or whose gradient is not, before a checkpoint holds the result."""

from collections.abc import Mapping, Sequence

import jax
import numpy as np
from jaxtyping import Array, Int

from clipvip_jax.input_pipeline.pipeline import WeightedStream
from clipvip_jax.input_pipeline.record_text import record_text, record_texts
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
      UserError: a value is not finite, or the loss is exactly 0; names the records of the batch and
        the newest checkpoint.
    """
    if self._pending is None:
      return
    (step, metrics, records), self._pending = self._pending, None
    loss, grad_norm = (float(jax.device_get(metrics[name])) for name in ("loss", "grad_norm"))
    clips = [(self._streams[stream].batcher, int(i)) for stream, i in records if i >= 0]
    is_zero = loss == 0 and not self._is_remainder(records)
    if np.isfinite(loss) and np.isfinite(grad_norm) and not is_zero:
      return
    ids = [record_text(batcher.records[i], "id") for batcher, i in clips]
    steps = self._checkpoints.steps()
    newest = f"the newest checkpoint is step {steps[-1]}" if steps else "there is no checkpoint"
    remedy = "Inspect them, or try a smaller optimizer.learning_rate or model.dtype=float32"
    if is_zero:
      fields = sorted({field for batcher, _ in clips for field in batcher.text_fields.values() if field})
      num_texts = sum(any(record_texts(b.records[i], f) for f in b.text_fields.values()) for b, i in clips)
      remedy = (
        f"{num_texts} of them have a text in {' or '.join(map(repr, fields))}: with less than two there is nothing to"
        " contrast. Set data.subtitle and data.caption to fields that hold texts, or increase train.batch_size"
      )
    raise UserError(
      f"step {step}: loss {loss}, gradient norm {grad_norm}; stopped, {newest}. Records of the batch: {', '.join(ids)}."
      f" {remedy}"
    )

  def _is_remainder(self, records: Int[np.ndarray, "b 2"]) -> bool:
    """Returns whether a batch is the end of an epoch with a single clip, whose loss is 0: it has no negatives."""
    sampler, num_clips = self._streams[records[0, 0]].sampler, np.count_nonzero(records[:, 1] >= 0)
    return num_clips <= 1 < sampler.batch_size < sampler.num_records and sampler.num_records % sampler.batch_size == 1
