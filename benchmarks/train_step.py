"""Benchmark of the post-pretraining step on the local devices: step time, compile time, memory and utilization.

  python -m benchmarks.train_step [--recipe=b32] [--batch=64] [--dtype=bfloat16] [--accumulate=1] [--attention=auto]
    [--remat] [--repeats=10]

Runs the train step of a run on one batch of random pixels and tokens on the devices. Forward, and forward + backward,
are separate programs; subtract them to get the parts of the step. Utilization counts the operations of the method
(`clipvip_jax/cost_model/flops.py`), without recomputation by `remat` and `accumulate`.
"""

import argparse
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from clipvip_jax.configs import post_pretrain
from clipvip_jax.cost_model import chips, flops, step_cost
from clipvip_jax.distributed import sharding
from clipvip_jax.models import clip_vip
from clipvip_jax.runs.train_state import TrainState
from clipvip_jax.training import optimizer
from clipvip_jax.training.losses import LOSSES
from clipvip_jax.training.train_step import embed_batch, jit_train_step
from clipvip_jax.utils.param_names import param_name

_SCHEDULE_STEPS = 1_000  # does not affect the time


def recipe(options: argparse.Namespace) -> Any:
  """Returns the configuration to time."""
  config = post_pretrain.get_config(options.recipe)
  config.train.update({"batch_size": options.batch, "num_microbatches": options.accumulate})
  config.model.update({"dtype": options.dtype, "remat": options.remat, "attention": options.attention})
  return config


def random_batch(config: Any) -> dict[str, np.ndarray]:
  """Returns random pixels and tokens, without missing or padded texts."""
  rng = np.random.default_rng(0)
  end_id = config.model.text.vocab_size - 1

  def draw(name: str, shape: jax.ShapeDtypeStruct) -> np.ndarray:
    if name.endswith("_mask"):
      return np.ones(shape.shape, bool)
    if shape.dtype == jnp.int32:
      ids = rng.integers(1, end_id, shape.shape, np.int32)
      ids[:, -1] = end_id
      return ids
    if shape.dtype == jnp.uint8:
      return rng.integers(0, 256, shape.shape, np.uint8)
    return rng.standard_normal(shape.shape, np.float32)

  return {name: draw(name, shape) for name, shape in step_cost.batch_shapes(config, LOSSES[config.loss]).items()}


def random_params(shapes: Any) -> Any:
  """Returns random values, drawn on the host: compiling the model's initializers for a GPU takes minutes.

  Outputs of a dense layer have the size of its inputs, so that features of different inputs differ.
  """
  rng = np.random.default_rng(0)

  def draw(path, x):
    std = x.shape[-2] ** -0.5 if x.ndim > 1 else 0.02
    noise = std * rng.standard_normal(x.shape, np.float32)
    return np.asarray(noise + param_name(path).endswith("/scale"), x.dtype)

  return jax.tree_util.tree_map_with_path(draw, shapes)


def _random(state: TrainState) -> TrainState:
  params = random_params(state.params)
  zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), (state.step, state.opt_state))
  return TrainState(zeros[0], {**params, "logit_scale": np.float32(clip_vip.INITIAL_LOGIT_SCALE)}, zeros[1])


class Programs:
  """Compiled train step, forward, and forward + backward programs, with a state and a batch."""

  def __init__(self, config: Any):
    model, loss = clip_vip.from_config(config.model), LOSSES[config.loss]
    tx, lr_schedule = optimizer.from_config(config.optimizer, _SCHEDULE_STEPS)
    mesh = sharding.make_mesh(config.mesh)
    contrast = sharding.sharded_loss(mesh, loss)

    def forward(params, batch):
      return contrast(embed_batch(model, loss, params, batch), params["logit_scale"])

    state = step_cost.state_shapes(config, model, tx)
    self.state = jax.tree.map(jax.device_put, _random(state), sharding.state_shardings(mesh, state))
    self.batch = sharding.shard_batch(mesh, random_batch(config))
    started = time.perf_counter()
    self.step = (
      jit_train_step(config, model, loss, tx, lr_schedule, mesh, self.state).lower(self.state, self.batch).compile()
    )
    self.compile_seconds = time.perf_counter() - started
    self.parts = {"forward": jax.jit(forward), "forward + backward": jax.jit(jax.grad(forward))}

  def seconds(self, repeats: int, parts: bool) -> dict[str, float]:
    """Returns the median seconds of the step and, if `parts`, of forward and forward + backward."""
    times = {}
    for name, program in self.parts.items() if parts else ():
      times[name] = _median(lambda program=program: program(self.state.params, self.batch), repeats)

    def step():
      self.state, metrics = self.step(self.state, self.batch)
      return metrics

    return {**times, "step": _median(step, repeats)}


def _median(call, repeats: int) -> float:
  """Returns the median seconds of a call, with two calls dispatched before blocking, as in training."""
  jax.block_until_ready(call())
  times = []
  for _ in range(repeats):
    started = time.perf_counter()
    for _ in range(2):
      last = call()
    jax.block_until_ready(last)
    times.append((time.perf_counter() - started) / 2)
  return statistics.median(times)


def _peak() -> float:
  """Returns the published peak of all devices in FLOP/s; 0 if unknown."""
  chip = chips.chip_of_kind(jax.devices()[0].device_kind)
  return chip.flops * jax.device_count() if chip else 0.0


def _memory() -> float:
  """Returns the peak bytes in use on the fullest local device; 0 if unknown."""
  return max((device.memory_stats() or {}).get("peak_bytes_in_use", 0) for device in jax.local_devices())


def report(config: Any, programs: Programs, seconds: dict[str, float]) -> None:
  """Prints the measurements."""
  count, operations = config.train.batch_size, flops.step(config)
  needed = sum(operations.values()) - operations["recomputed"]
  print(f"{jax.device_count()} x {jax.devices()[0].device_kind}, jax {jax.__version__}, {config.model.dtype}")
  summary = f"B/{config.model.patch_size}, batch {count}, {config.data.num_frames} frames"
  print(f"{summary}, compiled in {programs.compile_seconds:.0f} s")
  for name, value in seconds.items():
    print(f"  {name:20}{1e3 * value:10.1f} ms  {value / seconds['step']:5.2f} of the step")
  flops_per_second = needed / seconds["step"]
  share = f", {flops_per_second / _peak():.1%} of the peak" if _peak() else ""
  speed = f"{count / seconds['step']:.1f} videos/s, {flops_per_second / 1e12:.1f} TFLOP/s"
  print(f"  {speed}{share}, {needed / count / 1e9:.0f} GFLOP per video")
  if _memory():
    print(f"  {_memory() / 2**30:.1f} GiB peak memory")


def main() -> None:
  """Compiles, measures and prints the results."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--recipe", default="b32", help="variants of configs/post_pretrain.py")
  parser.add_argument("--batch", type=int, default=64)
  parser.add_argument("--dtype", default="bfloat16", choices=clip_vip.DTYPES)
  parser.add_argument("--attention", default="auto")
  parser.add_argument("--accumulate", type=int, default=1)
  parser.add_argument("--remat", action="store_true")
  parser.add_argument("--repeats", type=int, default=10)
  parser.add_argument("--no_parts", action="store_true", help="measure only the step")
  options = parser.parse_args()
  config = recipe(options)
  programs = Programs(config)
  report(config, programs, programs.seconds(options.repeats, not options.no_parts))


if __name__ == "__main__":
  main()
