"""Benchmark of the post-pretraining step on the local devices: step time, compile time, memory and utilization.

  python -m benchmarks.train_step [--recipe=b32] [--batch=64] [--dtype=bfloat16] [--accumulate=1] [--attention=auto]
    [--repeats=10]

Runs the train step of a run on one batch of random pixels and tokens on the devices, and its parts as separate
programs: forward, forward + backward (the difference is the backward pass), optimizer, loss, and the transfer of a
batch to the devices. Utilization counts the operations of the method (`clipvip_jax/cost_model/flops.py`), without
recomputation by `remat` and `accumulate`. `benchmarks/accelerator.py` repeats this over sizes and batches.
"""

import argparse
import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from benchmarks import losses
from clipvip_jax.configs import post_pretrain
from clipvip_jax.cost_model import chips, flops, step_cost
from clipvip_jax.distributed import sharding
from clipvip_jax.models import clip_vip
from clipvip_jax.runs.train_state import TrainState
from clipvip_jax.training import optimizer
from clipvip_jax.training.losses import LOSSES
from clipvip_jax.training.train_step import embed_batch, jit_train_step, state_shapes
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.param_names import param_name

TINY = "tiny"  # a size for tests
_SCHEDULE_STEPS = 1_000  # does not affect the time


def recipe(size: str, batch: int, dtype: str = "float32") -> ConfigDict:
  """Returns the configuration of a size: variants of configs/post_pretrain.py joined by "+", or TINY.

  Raises:
    UserError: unknown variant.
  """
  try:
    config = post_pretrain.get_config("b32" if size == TINY else size.replace("+", ","))
  except ValueError as error:
    raise UserError(f"size {size}: {error}, and {TINY} alone") from None
  if size == TINY:
    tower = {"width": 32, "layers": 2, "heads": 2, "mlp": 64}
    config.model.update({"image_size": 32, "patch_size": 8, "embed_dim": 32, "vision": tower, "text": tower})
    config.model.text.vocab_size = 512
  config.train.batch_size = batch
  config.model.dtype = dtype
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
  """Train step and its parts, with a state and a batch. Each is compiled, drawn or moved at its first use."""

  def __init__(self, config: ConfigDict):
    self._config = config
    self._mesh, self._loss = sharding.make_mesh(config.mesh), LOSSES[config.loss]
    model = clip_vip.from_config(config.model)
    self._model = clip_vip.with_heads_sharding(model, sharding.heads_sharding(self._mesh))
    self._tx, self._lr_schedule = optimizer.from_config(config.optimizer, _SCHEDULE_STEPS)
    self._contrast = sharding.sharded_loss(self._mesh, self._loss)
    self._state_shapes = state_shapes(config, self._model, self._tx)
    self.trace_seconds = self.compile_seconds = 0.0

  @functools.cached_property
  def step(self) -> jax.stages.Compiled:
    """The compiled step; sets `trace_seconds` and `compile_seconds`."""
    config, state = self._config, self._state_shapes
    started = time.perf_counter()
    step = jit_train_step(config, self._model, self._loss, self._tx, self._lr_schedule, self._mesh, state)
    lowered = step.lower(state, step_cost.batch_shapes(config, self._loss))
    traced = time.perf_counter()
    compiled = lowered.compile()
    self.trace_seconds, self.compile_seconds = traced - started, time.perf_counter() - traced
    return compiled

  @functools.cached_property
  def cost(self) -> step_cost.Cost:
    """Memory, operations and traffic of the compiled step."""
    return step_cost.cost_of(self.step, self._config, self._mesh, self._state_shapes, self.compile_seconds)

  @functools.cached_property
  def state(self) -> TrainState:
    """The state, which steps donate and replace."""
    shardings = sharding.state_shardings(self._mesh, self._state_shapes)
    return jax.tree.map(jax.device_put, _random(self._state_shapes), shardings)

  @functools.cached_property
  def _host_batch(self) -> dict[str, np.ndarray]:
    return random_batch(self._config)

  @functools.cached_property
  def batch(self) -> dict[str, jax.Array]:
    """The batch on the devices."""
    return self._transfer()

  def calls(self) -> dict[str, Callable[[], Any]]:
    """Returns {part: a call of it}, without its compilation; parts are those of `operations`."""
    config = self._config

    def forward(params, batch):
      return self._contrast(embed_batch(self._model, self._loss, params, batch), params["logit_scale"])

    def update(state, grads):
      updates, opt_state = self._tx.update(grads, state.opt_state, state.params)
      return state.replace(params=optax.apply_updates(state.params, updates), opt_state=opt_state)

    programs = {"forward": jax.jit(forward), "forward + backward": jax.jit(jax.grad(forward))}
    loss = jax.jit(jax.value_and_grad(self._contrast, (0, 1), allow_int=True))
    draw = functools.cache(lambda: losses.features(config.train.batch_size, config.model.embed_dim))
    optimize = jax.jit(update, donate_argnums=0)
    grads = functools.cache(lambda: jax.tree.map(jnp.copy, self.state.params))
    return {
      **{name: lambda f=f: f(self.state.params, self.batch) for name, f in programs.items()},
      "optimizer": lambda: self._replace_state(optimize(self.state, grads())),
      "loss": lambda: loss(draw(), self.state.params["logit_scale"]),
      "transfer": self._transfer,
      "step": self._run_step,
    }

  def _transfer(self) -> dict[str, jax.Array]:
    return sharding.shard_batch(self._mesh, self._host_batch)

  def _run_step(self) -> Any:
    state, metrics = self.step(self.state, self.batch)
    self._replace_state(state)
    return metrics

  def _replace_state(self, state: TrainState) -> TrainState:
    self.state = state
    return state

  def operations(self) -> dict[str, int]:
    """Returns {part: operations that the method needs}; 0: none that count."""
    counted = flops.step(self._config)
    needed = sum(counted.values()) - counted["recomputed"]
    parts = {"forward": flops.forward(self._config), "forward + backward": needed, "loss": counted["loss"]}
    return {**dict.fromkeys(self.calls(), 0), **parts, "step": needed}


def median_seconds(call: Callable[[], Any], repeats: int, limit: float = float("inf"), *, dispatched: int = 2) -> float:
  """Returns the median seconds of a call, after one that is not measured.

  Args:
    call: returns arrays.
    repeats: number of measurements.
    limit: seconds after which no other measurement begins.
    dispatched: calls per measurement, of which the last is awaited: two overlap as in training.
  """
  jax.block_until_ready(call())
  times: list[float] = []
  while len(times) < repeats and sum(times) * dispatched < limit:
    started = time.perf_counter()
    for _ in range(dispatched):
      last = call()
    jax.block_until_ready(last)
    times.append((time.perf_counter() - started) / dispatched)
  return statistics.median(times)


def _peak() -> float:
  """Returns the published peak of all devices in FLOP/s; 0 if unknown."""
  chip = chips.chip_of_kind(jax.devices()[0].device_kind)
  return chip.flops * jax.device_count() if chip else 0.0


def report(config: ConfigDict, programs: Programs, seconds: dict[str, float]) -> None:
  """Prints the measurements."""
  count, needed = config.train.batch_size, programs.operations()["step"]
  print(f"{jax.device_count()} x {jax.devices()[0].device_kind}, jax {jax.__version__}, {config.model.dtype}")
  summary = f"patches of {config.model.patch_size}, batch {count}, {config.data.num_frames} frames"
  print(f"{summary}, traced in {programs.trace_seconds:.0f} s, compiled in {programs.compile_seconds:.0f} s")
  for name, value in seconds.items():
    print(f"  {name:20}{1e3 * value:10.1f} ms  {value / seconds['step']:5.2f} of the step")
  flops_per_second = needed / seconds["step"]
  share = f", {flops_per_second / _peak():.1%} of the peak" if _peak() else ""
  speed = f"{count / seconds['step']:.1f} videos/s, {flops_per_second / 1e12:.1f} TFLOP/s"
  print(f"  {speed}{share}, {needed / count / 1e9:.0f} GFLOP per video")
  print(f"  {programs.cost.memory_used / 2**30:.1f} GiB of memory per device")


def main() -> None:
  """Compiles, measures and prints the results."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--recipe", default="b32", help="variants of configs/post_pretrain.py, as b16+remat, or tiny")
  parser.add_argument("--batch", type=int, default=64)
  parser.add_argument("--dtype", default="bfloat16", choices=clip_vip.DTYPES)
  parser.add_argument("--attention", default="auto")
  parser.add_argument("--accumulate", type=int, default=1)
  parser.add_argument("--repeats", type=int, default=10)
  parser.add_argument("--no_parts", action="store_true", help="measure only the step")
  options = parser.parse_args()
  config = recipe(options.recipe, options.batch, options.dtype)
  config.train.num_microbatches, config.model.attention = options.accumulate, options.attention
  programs = Programs(config)
  calls = programs.calls()
  names = ["step"] if options.no_parts else list(calls)
  report(config, programs, {name: median_seconds(calls[name], options.repeats) for name in names})


if __name__ == "__main__":
  main()
