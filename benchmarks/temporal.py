"""Benchmark of the temporal baselines against proxy-guided attention, at 12 frames of 196 patches.

  python -m benchmarks.temporal [--blocks=12] [--batch=1] [--repeats=3]

Measures forward and backward of the video tower of B/16, with gradients of all parameters. The last block is identical
for proxies and full attention, so their ratio approaches 1 with fewer blocks. Each round measures every variant once;
prints the best round. "masked" is proxy-guided attention computed as full attention with a mask.
"""

import argparse
import time
from unittest import mock

import jax
import jax.numpy as jnp

from clipvip_jax.configs import common, variants
from clipvip_jax.models import clip_vip, vision
from clipvip_jax.models.attention import attend

VARIANTS = {"proxies": "proxies_3", "masked": "proxies_3", "full": "full", "sequence": "sequence", "mean": "mean"}


def masked(query, key, value, *, num_proxies: int, num_frames: int, implementation: str):
  """Computes `proxy_guided` of [B, N, H, d] with all N x N scores and a mask."""
  del implementation
  tokens = query.shape[1]
  frame = jnp.maximum((jnp.arange(tokens) - num_proxies) // ((tokens - num_proxies) // num_frames), -1)  # -1: a proxy
  mask = (frame[:, None] == -1) | (frame == -1) | (frame[:, None] == frame)
  return attend(*(x.swapaxes(1, 2) for x in (query, key, value)), mask).swapaxes(1, 2)


def gradient(variant: str, video, blocks: int):
  """Returns (compiled gradient of a scalar of the features, parameters) of a variant."""
  config = common.base()
  config.model.update({"patch_size": 16, "dtype": "float32"})
  config.model.vision.layers = blocks
  config.model.text.layers = 1
  variants.TEMPORAL[VARIANTS[variant]](config)
  net = clip_vip.from_config(config.model)
  params = jax.jit(net.init)(jax.random.key(0), video[:1, :1], jnp.zeros((1, 2), jnp.int32))["params"]

  def objective(params, video):
    return net.apply({"params": params}, video, method="embed_video").sum()

  with mock.patch.object(vision, "proxy_guided", masked if variant == "masked" else vision.proxy_guided):
    return jax.jit(jax.grad(objective)).lower(params, video).compile(), params


def main() -> None:
  """Runs all rounds and prints a table."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--blocks", type=int, default=12)
  parser.add_argument("--batch", type=int, default=1)
  parser.add_argument("--repeats", type=int, default=3)
  options = parser.parse_args()
  video = jax.random.normal(jax.random.key(1), (options.batch, 12, 224, 224, 3))
  compiled = {variant: gradient(variant, video, options.blocks) for variant in VARIANTS}
  for step, params in compiled.values():
    jax.block_until_ready(step(params, video))
  best = dict.fromkeys(VARIANTS, float("inf"))
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
