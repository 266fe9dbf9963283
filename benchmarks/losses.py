"""Benchmark of loss (d) over the global batch B: full logits against blocks, memory and time of value and gradient.

  python -m benchmarks.losses [--sizes=1024,4096,16384,32768,65536] [--width=512] [--timed=8192]

Memory is the compiled program's temporary memory, without arguments and results. Both forms are timed in alternation up
to --timed clips; larger batches are compiled but not run.
"""

import argparse
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp

from clipvip_jax.training.losses import CHUNK, LOSSES

_REPEATS = 3


def features(size: int, width: int) -> dict[str, Any]:
  """Returns a batch of random unit features without missing texts."""
  keys = jax.random.split(jax.random.key(0), 4)
  names = ("video", "subtitle", "frame", "caption")
  batch = {name: jax.random.normal(key, (size, width)) for name, key in zip(names, keys, strict=True)}
  batch = {name: x / jnp.linalg.norm(x, axis=1, keepdims=True) for name, x in batch.items()}
  return batch | dict.fromkeys(("subtitle_mask", "caption_mask"), jnp.ones(size, bool))


def compiled(size: int, width: int, chunk: int) -> Any:
  """Compiles value and gradients of loss (d) for B = size."""

  def loss(batch, scale):
    return LOSSES["vsc_fc"](batch, scale, chunk=chunk)

  shapes = jax.eval_shape(lambda: features(size, width))
  gradient = jax.value_and_grad(loss, (0, 1), allow_int=True)
  return jax.jit(gradient).lower(shapes, jax.ShapeDtypeStruct((), jnp.float32)).compile()


def seconds(programs: list[Any], batch: Any) -> list[float]:
  """Returns the median seconds of each program, run in alternation."""
  times: list[list[float]] = [[] for _ in programs]
  for _ in range(_REPEATS):
    for program, program_times in zip(programs, times, strict=True):
      start = time.perf_counter()
      jax.block_until_ready(program(batch, jnp.float32(4.6)))
      program_times.append(time.perf_counter() - start)
  return [statistics.median(program_times) for program_times in times]


def main() -> None:
  """Prints a row for each B."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--sizes", default="1024,4096,16384,32768,65536", help="values of B, comma-separated")
  parser.add_argument("--width", type=int, default=512, help="feature size E")
  parser.add_argument("--timed", type=int, default=8192, help="largest B to time")
  options = parser.parse_args()
  print(f"blocks of {CHUNK}; {jax.devices()[0].device_kind}")
  print(f"{'B':>6}{'full MiB':>11}{'blocks MiB':>12}{'ratio':>8}{'full s':>9}{'blocks s':>10}")
  for size in map(int, options.sizes.split(",")):
    programs = [compiled(size, options.width, chunk) for chunk in (0, CHUNK)]
    full, blocks = (program.memory_analysis().temp_size_in_bytes / 2**20 for program in programs)
    row = f"{size:6d}{full:11.0f}{blocks:12.0f}{full / blocks:8.2f}"
    if size <= options.timed:
      row += "{:9.2f}{:10.2f}".format(*seconds(programs, features(size, options.width)))
    print(row, flush=True)


if __name__ == "__main__":
  main()
