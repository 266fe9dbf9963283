"""The post-pretraining step on this machine's devices: time, its parts, compile time, memory, and share of the peak.

  python -m benchmarks.train_step [--recipe=b32] [--batch=64] [--dtype=bfloat16] [--accumulate=1] [--attention=auto]
    [--remat] [--repeats=10]

The step is the one that a run calls, on a batch of random pixels and tokens that is there already. Forward, and forward
with backward, are programs of their own, so parts are differences between them. Operations are those that the method
needs (`clipvip_jax/cost_model/flops.py`); what `remat` and `accumulate` compute again does not count.
"""

import argparse
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from clipvip_jax.cost_model import chips, flops, step_cost
from clipvip_jax.distributed import sharding
from clipvip_jax.models import clip_vip
from clipvip_jax.runs.train_state import TrainState
from clipvip_jax.training import optimizer
from clipvip_jax.training.losses import LOSSES
from clipvip_jax.training.train_step import embed_batch, jit_train_step
from configs import post_pretrain

_STEPS = 1_000  # of the schedule, which changes nothing here


def recipe(options: argparse.Namespace) -> Any:
  """The configuration that is timed."""
  config = post_pretrain.get_config(options.recipe)
  config.train.update({"batch_size": options.batch, "num_microbatches": options.accumulate})
  config.model.update({"dtype": options.dtype, "remat": options.remat, "attention": options.attention})
  return config


def random_batch(config: Any) -> dict[str, np.ndarray]:
  """Pixels and tokens; every text exists and fills its positions."""
  rng = np.random.default_rng(0)
  ends = config.model.text.vocab_size - 1

  def draw(name: str, shape: jax.ShapeDtypeStruct) -> np.ndarray:
    if name.endswith("_mask"):
      return np.ones(shape.shape, bool)
    if shape.dtype == jnp.int32:
      ids = rng.integers(1, ends, shape.shape, np.int32)
      ids[:, -1] = ends
      return ids
    return rng.standard_normal(shape.shape, np.float32)

  return {name: draw(name, shape) for name, shape in step_cost.batch_shapes(config, LOSSES[config.loss]).items()}


def random_params(shapes: Any) -> Any:
  """Small numbers, drawn on the host: the model's own initialisers take minutes to compile for a GPU."""
  rng = np.random.default_rng(0)

  def draw(x):
    return np.asarray(0.02 * rng.standard_normal(x.shape, np.float32) + (x.ndim == 1), x.dtype)

  return jax.tree.map(draw, shapes)


def _random(state: TrainState) -> TrainState:
  params = random_params(state.params)
  zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), (state.step, state.opt_state))
  return TrainState(zeros[0], {**params, "logit_scale": np.float32(clip_vip.INITIAL_LOGIT_SCALE)}, zeros[1])


class Programs:
  """The step and its parts, compiled."""

  def __init__(self, config: Any):
    model, loss = clip_vip.from_config(config.model), LOSSES[config.loss]
    chain, rate = optimizer.from_config(config.optimizer, _STEPS)
    mesh = sharding.make_mesh(config.mesh)
    contrast = sharding.sharded_loss(mesh, loss)

    def forward(params, batch):
      return contrast(embed_batch(model, loss, params, batch), params["logit_scale"])

    state = step_cost.state_shapes(config, model, chain)
    self.state = jax.tree.map(jax.device_put, _random(state), sharding.state_shardings(mesh, state))
    self.batch = sharding.shard_batch(mesh, random_batch(config))
    started = time.perf_counter()
    self.step = (
      jit_train_step(config, model, loss, chain, rate, mesh, self.state).lower(self.state, self.batch).compile()
    )
    self.compile_seconds = time.perf_counter() - started
    self.parts = {"forward": jax.jit(forward), "forward + backward": jax.jit(jax.grad(forward))}

  def seconds(self, repeats: int, parts: bool) -> dict[str, float]:
    """Median of the step, and of its parts, where they are asked for."""
    found = {}
    for name, program in self.parts.items() if parts else ():
      found[name] = _median(lambda program=program: program(self.state.params, self.batch), repeats)

    def step():
      self.state, metrics = self.step(self.state, self.batch)
      return metrics

    return {**found, "step": _median(step, repeats)}


def _median(call, repeats: int) -> float:
  """Seconds of a call. Several run before one is waited for, as in training."""
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
  """Operations a second of all devices, as their maker gives them; 0: unknown."""
  chip = chips.chip_of_kind(jax.devices()[0].device_kind)
  return chip.flops * jax.device_count() if chip else 0.0


def _memory() -> float:
  """Bytes of the fullest device at its peak; 0: unknown."""
  return max((device.memory_stats() or {}).get("peak_bytes_in_use", 0) for device in jax.local_devices())


def report(config: Any, programs: Programs, seconds: dict[str, float]) -> None:
  """Prints what was measured."""
  count, operations = config.train.batch_size, flops.step(config)
  needed = sum(operations.values()) - operations["recomputed"]
  print(f"{jax.device_count()} x {jax.devices()[0].device_kind}, jax {jax.__version__}, {config.model.dtype}")
  shown = f"B/{config.model.patch_size}, batch {count}, {config.data.num_frames} frames"
  print(f"{shown}, compiled in {programs.compile_seconds:.0f} s")
  for name, value in seconds.items():
    print(f"  {name:20}{1e3 * value:10.1f} ms  {value / seconds['step']:5.2f} of the step")
  rate = needed / seconds["step"]
  share = f", {rate / _peak():.1%} of the peak" if _peak() else ""
  speed = f"{count / seconds['step']:.1f} videos a second, {rate / 1e12:.1f} TFLOP/s"
  print(f"  {speed}{share}, {needed / count / 1e9:.0f} GFLOP a video")
  if _memory():
    print(f"  {_memory() / 2**30:.1f} GiB at the peak")


def main() -> None:
  """Compiles, measures, prints."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--recipe", default="b32", help="variants of configs/post_pretrain.py")
  parser.add_argument("--batch", type=int, default=64)
  parser.add_argument("--dtype", default="bfloat16", choices=clip_vip.DTYPES)
  parser.add_argument("--attention", default="auto")
  parser.add_argument("--accumulate", type=int, default=1)
  parser.add_argument("--remat", action="store_true")
  parser.add_argument("--repeats", type=int, default=10)
  parser.add_argument("--no_parts", action="store_true", help="the step alone")
  options = parser.parse_args()
  config = recipe(options)
  programs = Programs(config)
  report(config, programs, programs.seconds(options.repeats, not options.no_parts))


if __name__ == "__main__":
  main()
