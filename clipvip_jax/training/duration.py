"""Number of steps of a run, and its extension when a run resumes with more."""

import json
import pathlib
from collections.abc import Sequence

import numpy as np
from ml_collections import ConfigDict

from clipvip_jax.input_pipeline.mixture import steps_until
from clipvip_jax.input_pipeline.pipeline import WeightedStream
from clipvip_jax.runs.checkpoint_identity import read_identities
from clipvip_jax.runs.workdir import DURATION
from clipvip_jax.training.optimizer import learning_rate
from clipvip_jax.training.train_step import num_dropout_steps
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import printable

MAX_STEPS = 2**31 - 1  # the step is an int32


def total_steps(train: ConfigDict, streams: Sequence[WeightedStream]) -> int:
  """Returns train.num_steps, or the steps until config.data has been read `train.epochs` times.

  Raises:
    UserError: more than MAX_STEPS.
  """
  num_batches = train.epochs * streams[0].sampler.steps_per_epoch
  steps = train.num_steps
  if not steps and num_batches <= MAX_STEPS:
    steps = steps_until([stream.weight for stream in streams], 0, num_batches)
  if not 0 < steps <= MAX_STEPS:
    raise UserError(f"train.epochs={train.epochs} is more than {MAX_STEPS} steps; set train.num_steps")
  return steps


def check_extension(config: ConfigDict, workdir: pathlib.Path, streams: Sequence[WeightedStream]) -> int:
  """Checks that a run may be extended: the steps already done must be those of the longer run.

  Args:
    config: the whole configuration, equal to that of the run in `workdir` except for its duration.
    workdir: the run's folder, which need not exist. Its config.json and newest checkpoint say how long the run was.
    streams: training batches.

  Returns:
    The number of steps that the run was started with, or last extended to; 0 if `workdir` holds no run or one of the
    same number of steps.

  Raises:
    UserError: fewer steps, or learning rates or patch dropout of the steps done depend on their number; or config.json
      records no number of steps.
  """
  path = workdir / "config.json"
  if not path.exists():
    return 0
  trained = [identity["config"]["train"] for identity in read_identities(workdir).values()]
  steps = [_recorded_steps(path, streams), *(total_steps(ConfigDict(train), streams) for train in trained[-1:])]
  for old in steps:
    _check_steps(config, workdir, old, total_steps(config.train, streams))
  return 0 if steps[0] == total_steps(config.train, streams) else steps[0]


def _recorded_steps(path: pathlib.Path, streams: Sequence[WeightedStream]) -> int:
  """Returns the steps of the run that a config.json records. Its duration may be any value: nothing compares it."""
  train = json.loads(path.read_text(encoding="utf-8"))["train"]
  values = {name: train.get(name.removeprefix("train.")) for name in DURATION}
  try:
    if not all(type(value) is int and 0 <= value <= MAX_STEPS for value in values.values()):
      raise UserError("not numbers of steps")
    return total_steps(ConfigDict(train), streams)
  except UserError as error:
    shown = ", ".join(f"{name}={printable(repr(value), 80)}" for name, value in values.items())
    raise UserError(
      f"{path} records no number of steps ({shown}); restore that file, or choose another --workdir"
    ) from error


def _check_steps(config: ConfigDict, workdir: pathlib.Path, old: int, new: int) -> None:
  """Checks that a run of `old` steps may become one of `new` steps."""
  if old == new:
    return
  problem = f"{workdir} holds a run of {old} steps, which cannot become {new}"
  remedy = f"use train.num_steps={old}, or start from it with --config.init_from={workdir} and another --workdir"
  if new < old:
    raise UserError(f"{problem}: it can only be extended; {remedy}")
  schedule, lr, warmup = (config.optimizer[field] for field in ("schedule", "learning_rate", "warmup_ratio"))
  steps = np.unique(np.linspace(1, old, 1000, dtype=np.int64))
  before, after = (learning_rate(schedule, lr, total, warmup)(steps) for total in (old, new))
  if not np.array_equal(before, after):
    reason = f"with optimizer.schedule={schedule!r} and warmup_ratio={warmup}, learning rates depend on it"
    raise UserError(f"{problem}: {reason}; {remedy}")
  if len({min(num_dropout_steps(config, total), old) for total in (old, new)}) > 1:
    reason = f"train.unmasked_fraction={config.train.unmasked_fraction} of them had no patch dropout"
    raise UserError(f"{problem}: {reason}; {remedy}")
