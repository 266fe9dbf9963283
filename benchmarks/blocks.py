"""Benchmark of twelve vision blocks with proxy-guided attention: forward, and forward + backward.

  python -m benchmarks.blocks [--patch=32] [--frames=12] [--batch=4] [--dtype=float32]
    [--peer='/path/to/python benchmarks/torch_blocks.py --device cpu']

Runs twelve blocks of ViT-B's width on random tokens, without embeddings, text tower, loss and optimizer. --peer is a
command that accepts the same sizes and prints JSON with `forward_s` and `forward_backward_s`, as torch_blocks.py does;
rounds alternate between the two. Each round is a separate process and reports its median; the table shows the best
round.
"""

import argparse
import functools
import json
import shlex
import sys

from benchmarks.peer import run_peer

PARTS = {"forward_s": "forward", "forward_backward_s": "forward + backward"}


def ours(options: argparse.Namespace) -> dict[str, float]:
  """Returns the median seconds of each part, measured in this process."""
  import jax
  import jax.numpy as jnp

  from benchmarks.train_step import median_seconds, random_params
  from clipvip_jax.models.attention import resolve_implementation
  from clipvip_jax.models.proxy_attention import proxy_guided
  from clipvip_jax.models.transformer import Transformer

  tokens = 4 + options.frames * (224 // options.patch) ** 2
  pattern = functools.partial(proxy_guided, num_proxies=4, num_frames=options.frames)
  pattern = functools.partial(pattern, implementation=resolve_implementation("auto", jnp.dtype(options.dtype)))
  net = Transformer(12, 12, 3072, "quick_gelu", jnp.dtype(options.dtype))
  x = jax.random.normal(jax.random.key(0), (options.batch, tokens, 768))
  params = random_params(jax.eval_shape(lambda: net.init(jax.random.key(1), x[:1], pattern)))

  def forward(params):
    return net.apply(params, x.astype(net.dtype), pattern)

  def loss(params):
    return jnp.square(forward(params).astype(jnp.float32)).mean()

  programs = {"forward_s": jax.jit(forward), "forward_backward_s": jax.jit(jax.grad(loss))}
  calls = {name: functools.partial(program, params) for name, program in programs.items()}
  return {name: median_seconds(call, options.repeats, dispatched=1) for name, call in calls.items()}


def sizes(options: argparse.Namespace) -> list[str]:
  """Returns the arguments with which a peer measures the same blocks."""
  names = ("patch", "frames", "batch", "dtype", "repeats")
  return [argument for name in names for argument in (f"--{name}", str(getattr(options, name)))]


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--patch", type=int, default=32)
  parser.add_argument("--frames", type=int, default=12)
  parser.add_argument("--batch", type=int, default=4)
  parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
  parser.add_argument("--repeats", type=int, default=5, help="timed calls per round, after compilation")
  parser.add_argument("--rounds", type=int, default=2)
  parser.add_argument("--peer", default="", help="command to compare with")
  parser.add_argument("--one", action="store_true", help="measure one round in this process and print JSON")
  return parser


def main() -> None:
  """Runs all rounds and prints a table."""
  options = _parser().parse_args()
  if options.one:
    print(json.dumps(ours(options)))
    return
  commands = {"ours": [sys.executable, "-m", "benchmarks.blocks", "--one"]}
  if options.peer:
    commands["peer"] = shlex.split(options.peer)
  rounds = [
    {name: run_peer([*command, *sizes(options)]) for name, command in commands.items()} for _ in range(options.rounds)
  ]
  print(f"B/{options.patch}, {options.batch} clips of {options.frames} frames, {options.dtype}, seconds")
  for part, title in PARTS.items():
    best = {name: min(times[name][part] for times in rounds) for name in commands}
    row = "".join(f"  {name} {seconds:8.4f}" for name, seconds in best.items())
    print(f"{title:20}{row}" + (f"  speedup {best['peer'] / best['ours']:.2f}" if options.peer else ""))


if __name__ == "__main__":
  main()
