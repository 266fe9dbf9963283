"""What the temporal baselines cost beside the paper's method, at 12 frames of 196 patches.

  python -m benchmarks.temporal [--blocks=12] [--batch=1] [--repeats=3]

Forward and backward of the video tower of B/16, features and gradients of all parameters. The last block is the same
under proxies and full attention, so fewer blocks bring the two together. Each round measures every way once; the best
of the rounds counts.
"""

import argparse
import time

import jax
import jax.numpy as jnp

from clipvip_jax.models import clip_vip
from configs import common, variants

WAYS = {"proxies": "proxies_3", "full": "full", "sequence": "sequence", "mean": "mean"}


def gradient(variant: str, blocks: int):
  """(compiled gradient of a scalar of the features, parameters) of a variant."""
  config = common.base()
  config.model.update({"patch_size": 16, "dtype": "float32"})
  config.model.vision.layers = blocks
  config.model.text.layers = 1
  variants.TEMPORAL[variant](config)
  net = clip_vip.from_config(config.model)
  video = jnp.zeros((1, 1, 224, 224, 3))
  params = jax.jit(net.init)(jax.random.key(0), video, jnp.zeros((1, 2), jnp.int32))["params"]

  def objective(params, video):
    return net.apply({"params": params}, video, method="embed_video").sum()

  return jax.jit(jax.grad(objective)), params


def main() -> None:
  """Measures and prints a table."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--blocks", type=int, default=12)
  parser.add_argument("--batch", type=int, default=1)
  parser.add_argument("--repeats", type=int, default=3)
  options = parser.parse_args()
  video = jax.random.normal(jax.random.key(1), (options.batch, 12, 224, 224, 3))
  compiled = {name: gradient(variant, options.blocks) for name, variant in WAYS.items()}
  for step, params in compiled.values():
    jax.block_until_ready(step(params, video))
  best = dict.fromkeys(WAYS, float("inf"))
  for _ in range(options.repeats):
    for name, (step, params) in compiled.items():
      started = time.perf_counter()
      jax.block_until_ready(step(params, video))
      best[name] = min(best[name], time.perf_counter() - started)
  print(f"{jax.devices()[0].device_kind}, {options.blocks} blocks, {options.batch} clips of 12 x 196 patches")
  for name, seconds in best.items():
    print(f"{name:10} {seconds:7.3f} s  {seconds / best['full']:5.2f} of full attention")


if __name__ == "__main__":
  main()
