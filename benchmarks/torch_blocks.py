"""PyTorch reference for `benchmarks/blocks.py`: twelve vision blocks of CLIP-ViP, forward, and forward + backward.

  torch_blocks.py --patch 32 --frames 12 --batch 4 --device cpu --dtype float32 [--sdpa] [--compile]

Follows the arithmetic and order of operations of the public implementation: frames attend to the proxies and to
themselves, proxies to all tokens; no embeddings, text tower, loss or optimizer. Requires an environment with PyTorch
(about 4 GB).
"""

import argparse
import json
import statistics
import time

import torch
from torch import nn
from torch_model import SIZES, vision_blocks


def seconds(call, synchronize, repeats: int) -> float:
  """Returns the median seconds of a call, after one warm-up call."""
  call()
  synchronize()
  times = []
  for _ in range(repeats):
    started = time.perf_counter()
    call()
    synchronize()
    times.append(time.perf_counter() - started)
  return statistics.median(times)


def main() -> None:
  """Measures and prints one line of JSON."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--patch", type=int, default=32, choices=(32, 16))
  parser.add_argument("--frames", type=int, default=12)
  parser.add_argument("--batch", type=int, default=4)
  parser.add_argument("--device", default="cpu")
  parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"), help="bfloat16 uses autocast")
  parser.add_argument("--threads", type=int, default=2)
  parser.add_argument("--repeats", type=int, default=5)
  parser.add_argument("--sdpa", action="store_true", help="use fused attention instead of bmm")
  parser.add_argument("--compile", action="store_true")
  options = parser.parse_args()
  torch.set_num_threads(options.threads)
  sizes = SIZES[f"b{options.patch}"]
  net = nn.Sequential(*vision_blocks(sizes, options.sdpa)).to(options.device)
  run = torch.compile(net) if options.compile else net
  tokens = 1 + sizes.added_proxies + options.frames * sizes.patches
  x = torch.randn(options.batch, tokens, sizes.vision.width, device=options.device)

  def synchronize():
    if options.device == "cuda":
      torch.cuda.synchronize()

  def cast():
    return torch.autocast(options.device, torch.bfloat16, enabled=options.dtype == "bfloat16")

  def forward():
    with torch.no_grad(), cast():
      run(x)

  def forward_backward():
    net.zero_grad(set_to_none=True)
    with cast():
      loss = run(x).float().square().mean()
    loss.backward()

  times = {
    "forward_s": seconds(forward, synchronize, options.repeats),
    "forward_backward_s": seconds(forward_backward, synchronize, options.repeats),
  }
  print(json.dumps({**vars(options), "torch": torch.__version__, **times}))


if __name__ == "__main__":
  main()
