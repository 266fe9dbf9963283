"""Measurements of `benchmarks/accelerator.py`, which run in the process that holds the accelerator.

Letters: B batch, T frames, N tokens, H heads, d head width.
"""

import argparse
import collections
import dataclasses
import functools
import gc
import os
import pathlib
import tempfile
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from benchmarks import blocks, kernel_profile, throughput
from benchmarks.accelerator_results import MEASURED, Row, Unsupported, failure
from benchmarks.train_step import Programs, median_seconds, random_batch, random_params, recipe
from clipvip_jax.cost_model import chips, flops, step_cost
from clipvip_jax.distributed import sharding
from clipvip_jax.inference.embedding_model import EmbeddingModel
from clipvip_jax.input_pipeline.throughput import measure_throughput, training_batcher
from clipvip_jax.models import clip_vip
from clipvip_jax.models.attention import IMPLEMENTATIONS, AttentionPattern, resolve_implementation
from clipvip_jax.models.proxy_attention import proxy_guided
from clipvip_jax.utils.log import configure_logging
from clipvip_jax.utils.versions import code_digest

PARTS = ("forward", "forward + backward", "optimizer", "loss", "transfer")
REPEATS, _SECONDS = 10, 3.0  # most measurements of a row, and seconds after which no other begins
_TRACED_STEPS, _KERNELS = 3, 20
_BATCHES_TO_EMBED, _CLIPS_TO_DECODE = 4, 8
_BLOCKS_WIDTH = 768  # of `benchmarks/blocks.py`
_CACHE_EVENTS: collections.Counter[str] = collections.Counter()


def serve(connection: Connection, dtype: str) -> None:
  """Answers each `Row` from the connection with its result, until the connection closes.

  Args:
    connection: to the process that plans the rows.
    dtype: of the computation; "": bfloat16 on an accelerator, float32 on a CPU.
  """
  configure_logging(warnings_only=True)
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
  bench = Bench(dtype)
  while True:
    try:
      row = connection.recv()
    except EOFError:
      return
    connection.send(bench.measure(row))


def config_of(row: Row, dtype: str = "float32") -> ConfigDict:
  """Returns the configuration of a row.

  Raises:
    UserError: unknown size.
  """
  config = recipe(row.size, row.batch, dtype)
  config.model.attention = row.option or "auto"
  return config


class Bench:
  """Measures rows on the local devices, and keeps the programs of the last row."""

  def __init__(self, dtype: str):
    _count_cache_events()
    self._device, self._count = jax.devices()[0], jax.device_count()
    self._dtype = dtype or ("float32" if self._device.platform == "cpu" else "bfloat16")
    self._chip = chips.chip_of_kind(self._device.device_kind)
    self._programs: tuple[Row, Programs] | None = None

  def measure(self, row: Row) -> dict[str, Any]:
    """Returns the row's result: its status, and numbers, or the reason why there are none."""
    try:
      return {"status": MEASURED, **MEASUREMENTS[row.kind](self, row)}
    except Exception as error:
      self._programs = None
      return failure(error)
    finally:
      if self._programs and self._programs[0] != row:
        self._programs = None
      gc.collect()  # frees the memory of the device

  def device(self, row: Row) -> dict[str, Any]:
    """Describes the devices."""
    del row
    return {
      "device": self._device.device_kind,
      "platform": self._device.platform,
      "devices": self._count,
      "cores": os.cpu_count(),
      "memory": device_memory(self._device),
      "peak_flops": self._chip.flops * self._count if self._chip else None,
      "no_peak": "" if self._chip else "no peak is known for this device",
      "dtype": self._dtype,
      "jax": jax.__version__,
      "code": code_digest(),
      "attention": [name for name in IMPLEMENTATIONS if name != "auto"],
      "automatic": resolve_implementation("auto", jnp.dtype(self._dtype)),
    }

  def step(self, row: Row) -> dict[str, Any]:
    """Measures the training step of a run."""
    programs, before = self._of(row), _CACHE_EVENTS.copy()
    programs.step  # noqa: B018, compiles
    built = {
      "trace_seconds": programs.trace_seconds,
      "compile_seconds": programs.compile_seconds,
      "from_cache": (_CACHE_EVENTS - before)["hits"] > 0,
      "memory": programs.cost.memory_used,
    }
    _check_memory(programs.cost.memory_used, self._device)
    return {**built, **self._part(programs, "step", row), **self._predicted(programs.cost)}

  def compile(self, row: Row) -> dict[str, Any]:
    """Measures a second compilation of the step, from the cache."""
    self._programs = None
    jax.clear_caches()
    programs, before = self._of(row), _CACHE_EVENTS.copy()
    programs.step  # noqa: B018, compiles
    return {
      "seconds": programs.trace_seconds + programs.compile_seconds,
      "trace_seconds": programs.trace_seconds,
      "compile_seconds": programs.compile_seconds,
      "from_cache": (_CACHE_EVENTS - before)["hits"] > 0,
    }

  def part(self, row: Row) -> dict[str, Any]:
    """Measures one of PARTS."""
    result = self._part(self._of(row), row.kind, row)
    if row.kind == "transfer":
      batch = sum(x.nbytes for x in random_batch(config_of(row)).values())
      result["gigabytes_per_second"] = batch / result["seconds"] / 1e9
    return result

  def profile(self, row: Row) -> dict[str, Any]:
    """Traces steps; returns the kernels with the most time, and the sums of modules."""
    programs = self._of(row)
    _check_memory(programs.cost.memory_used, self._device)
    trace = kernel_profile.trace(programs.calls()["step"], _TRACED_STEPS)
    found = kernel_profile.kernels(trace, programs.step.as_text() or "", _TRACED_STEPS)
    modules: collections.Counter[str] = collections.Counter()
    for kernel in found:
      modules[f"{kernel.module} {kernel.direction}".strip()] += kernel.seconds
    return {
      "kernel_seconds": sum(modules.values()),
      "kernels": [dataclasses.asdict(kernel) for kernel in found[:_KERNELS]],
      "modules": dict(modules.most_common(_KERNELS)),
    }

  def attention(self, row: Row) -> dict[str, Any]:
    """Measures proxy-guided attention of one block by the implementation in `row.option`, without projections."""
    config, dtype = config_of(row, self._dtype), jnp.dtype(self._dtype)
    model, frames = config.model, config.data.num_frames
    proxies, patches = 1 + model.vision.added_proxies, (model.image_size // model.patch_size) ** 2
    shape = (row.batch, proxies + frames * patches, model.vision.heads, model.vision.width // model.vision.heads)
    query, key, value, gradient = (
      jax.random.normal(key, shape, dtype) for key in jax.random.split(jax.random.key(0), 4)
    )
    query *= shape[-1] ** -0.5

    def pattern(name: str) -> AttentionPattern:
      resolved = resolve_implementation(name, dtype)
      return functools.partial(proxy_guided, num_proxies=proxies, num_frames=frames, implementation=resolved)

    def lowered(name: str) -> jax.stages.Lowered:
      both = jax.jit(lambda q, k, v, g: jax.vjp(pattern(name), q, k, v)[1](g))
      return both.lower(query, key, value, gradient)

    program = lowered(row.option)
    if row.option != "xla" and program.as_text() == lowered("xla").as_text():
      queries, keys = patches, proxies + patches
      raise Unsupported(f"{row.option} has no kernel for {queries} queries and {keys} keys; XLA computes them")
    forward, compiled = jax.jit(pattern(row.option)), program.compile()
    pairs = flops.proxy_guided_pairs(proxies, frames, patches)
    operations = row.batch * flops.attention(pairs, model.vision.width)
    return {
      "forward_seconds": self._median(lambda: forward(query, key, value)),
      **self._rates(self._median(lambda: compiled(query, key, value, gradient)), 3 * operations, devices=1),
    }

  def blocks(self, row: Row) -> dict[str, Any]:
    """Measures twelve vision blocks, forward + backward."""
    options = blocks_options(row, self._dtype)
    times = blocks.ours(options)
    model = config_of(row).model
    proxies, patches = 1 + model.vision.added_proxies, (224 // options.patch) ** 2
    pairs = flops.proxy_guided_pairs(proxies, options.frames, patches)
    block = flops.block("", proxies + options.frames * patches, pairs, _BLOCKS_WIDTH, 4 * _BLOCKS_WIDTH)
    rates = self._rates(times["forward_backward_s"], 3 * 12 * row.batch * block.forward, devices=1)
    return {"forward_seconds": times["forward_s"], **rates, "clips_per_second": row.batch / rates["seconds"]}

  def embed(self, row: Row) -> dict[str, Any]:
    """Measures `EmbeddingModel` on clips in the memory of the host, and on texts that are tokenised already."""
    config = config_of(row, self._dtype)
    batch = random_batch(config)
    params = jax.device_put(
      random_params(clip_vip.parameter_shapes(config.model)), sharding.replicated(sharding.make_mesh())
    )
    ids = np.concatenate([batch["subtitle"]] * _BATCHES_TO_EMBED)
    model = EmbeddingModel("random", config, params, lambda texts, length: ids[: len(texts)], row.batch)
    clips, texts = list(batch["video"]), ["text"] * row.batch
    clip_seconds = self._median(lambda: list(model.embed_pixels(clips * _BATCHES_TO_EMBED))) / len(ids)
    text_seconds = self._median(lambda: model.embed_texts(texts * _BATCHES_TO_EMBED)) / len(ids)
    layers = flops.vision(config.model, config.data.num_frames, training=False)
    rates = self._rates(clip_seconds * row.batch, row.batch * sum(layer.forward for layer in layers))
    return {**rates, "clips_per_second": 1 / clip_seconds, "texts_per_second": 1 / text_seconds}

  def input(self, row: Row) -> dict[str, Any]:
    """Measures how many clips per second all cores of the host decode from JPEGs of 320 x 240."""
    config, cores = config_of(row), os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as folder:
      throughput.write_corpus(pathlib.Path(folder), _CLIPS_TO_DECODE)
      batcher = training_batcher(
        throughput.open_corpus(folder), "train", config.data.num_frames, config.model.image_size
      )
      clips = measure_throughput(batcher, min(row.batch, throughput.BATCH), cores, _SECONDS).clips_per_second
    return {"seconds": row.batch / clips, "clips_per_second": clips, "cores": cores}

  def _of(self, row: Row) -> Programs:
    """Returns the programs of a row, those of the last row if it had the same configuration."""
    if self._programs and dataclasses.replace(self._programs[0], kind="") == dataclasses.replace(row, kind=""):
      self._programs = row, self._programs[1]
      return self._programs[1]
    self._programs = None  # frees the memory of the device
    gc.collect()
    sharding.check_batch_size(row.batch, "batch", {sharding.DATA: self._count, sharding.FSDP: 1})
    self._programs = row, Programs(config_of(row, self._dtype))
    return self._programs[1]

  def _part(self, programs: Programs, name: str, row: Row) -> dict[str, Any]:
    seconds = self._median(programs.calls()[name])
    return {**self._rates(seconds, programs.operations()[name]), "clips_per_second": row.batch / seconds}

  def _median(self, call: Callable[[], Any]) -> float:
    return median_seconds(call, REPEATS, _SECONDS)

  def _rates(self, seconds: float, operations: int, devices: int = 0) -> dict[str, float]:
    """Returns time and speed of so many devices, 0: all; the published peak is of bfloat16."""
    rates = {"seconds": seconds}
    if operations:
      rates["tflops"] = operations / seconds / 1e12
    if operations and self._chip and self._dtype == "bfloat16":
      rates["share_of_peak"] = operations / seconds / (self._chip.flops * (devices or self._count))
    return rates

  def _predicted(self, cost: step_cost.Cost) -> dict[str, Any]:
    """Returns the step's lower bound by the cost model of preflight."""
    if not self._chip or self._dtype != "bfloat16":
      return {}
    bounds = step_cost.step_seconds(cost, self._chip, self._count, loops=True)
    bound = max(bounds, key=bounds.__getitem__)
    return {"predicted_seconds": bounds[bound], "bound_by": bound, "hbm_bytes": cost.hbm_bytes}


MEASUREMENTS: Mapping[str, Callable[[Bench, Row], dict[str, Any]]] = {
  "device": Bench.device,
  "step": Bench.step,
  "compile": Bench.compile,
  "profile": Bench.profile,
  **dict.fromkeys(PARTS, Bench.part),
  "attention": Bench.attention,
  "blocks": Bench.blocks,
  "embed": Bench.embed,
  "input": Bench.input,
}


def blocks_options(row: Row, dtype: str) -> argparse.Namespace:
  """Returns the options of `benchmarks/blocks.py` for a row.

  Raises:
    Unsupported: the size's blocks are not those of the benchmark.
  """
  config = config_of(row)
  if config.model.vision.width != _BLOCKS_WIDTH:
    raise Unsupported(f"benchmarks.blocks has blocks of width {_BLOCKS_WIDTH}, {row.size} {config.model.vision.width}")
  sizes = {"patch": config.model.patch_size, "frames": config.data.num_frames, "batch": row.batch}
  return argparse.Namespace(**sizes, dtype=dtype, repeats=5)


def device_memory(device: jax.Device) -> int:
  """Returns the bytes that a device has for JAX; those available on the host for a CPU."""
  limit = (device.memory_stats() or {}).get("bytes_limit", 0)
  if limit or device.platform != "cpu":
    return limit
  lines = pathlib.Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
  return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))


def _check_memory(needed: float, device: jax.Device) -> None:
  """Raises OutOfMemory before a step is run that does not fit: a host without memory ends processes at will."""
  available = device_memory(device)
  if needed > available > 0:
    raise step_cost.OutOfMemory(needed)


@functools.cache
def _count_cache_events() -> None:
  """Counts the hits of the compilation cache in _CACHE_EVENTS."""

  def count(event: str, **_: Any) -> None:
    if event == "/jax/compilation_cache/cache_hits":
      _CACHE_EVENTS["hits"] += 1

  jax.monitoring.register_event_listener(count)
