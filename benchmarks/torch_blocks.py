"""PyTorch reference for `benchmarks/blocks.py`: twelve vision blocks of CLIP-ViP, forward, and forward + backward.

  torch_blocks.py --patch 32 --frames 12 --batch 4 --device cpu --dtype float32 [--sdpa] [--compile]

Follows the arithmetic and order of operations of the public implementation: frames attend to the proxies and to
themselves, proxies to all tokens; no embeddings, text tower, loss or optimizer. Requires an environment with PyTorch
(about 4 GB). Shapes: B clips, M proxies, T frames, L patches, H heads, D width, d head size.
"""

import argparse
import json
import statistics
import time

import torch
from torch import nn
from torch.nn import functional

WIDTH, HEADS, PROXIES = 768, 12, 4


class Block(nn.Module):
  """Residual attention block, [B, M + T L, D] -> [B, M + T L, D]."""

  def __init__(self, frames: int, patches: int, fused: bool):
    super().__init__()
    self.frames, self.patches, self.fused = frames, patches, fused
    self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
    self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
    self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

  def attend(self, query, key, value):
    """Attends with scaled queries: [X, Q, d], [X, K, d], [X, K, d] -> [X, Q, d]."""
    if self.fused:
      return functional.scaled_dot_product_attention(query, key, value, scale=1.0)
    return torch.bmm(torch.bmm(query, key.transpose(1, 2)).softmax(-1), value)

  def by_heads(self, x):
    """Splits heads: [B, N, D] -> [B H, N, d]."""
    batch, tokens, _ = x.shape
    return x.view(batch, tokens, HEADS, -1).transpose(1, 2).contiguous().view(batch * HEADS, tokens, -1)

  def frame_context(self, x):
    """Gathers the proxies and the patches of each frame: [B H, N, d] -> [B H T, M + L, d]."""
    head = x.shape[-1]
    proxies = x[:, :PROXIES].repeat(1, self.frames, 1).reshape(-1, PROXIES, head)
    return torch.cat([proxies, x[:, PROXIES:].reshape(-1, self.patches, head)], 1)

  def attention(self, x):
    """Applies proxy-guided attention with its projections."""
    batch, head = len(x), WIDTH // HEADS
    query, key, value = (self.by_heads(y) for y in (self.query(x) * head**-0.5, self.key(x), self.value(x)))
    frames = self.attend(
      query[:, PROXIES:].reshape(-1, self.patches, head), self.frame_context(key), self.frame_context(value)
    )
    frames = frames.view(batch, HEADS, self.frames, self.patches, head).permute(0, 2, 3, 1, 4)
    proxies = self.attend(query[:, :PROXIES], key, value).view(batch, HEADS, PROXIES, head).transpose(1, 2)
    joined = [proxies.reshape(batch, PROXIES, WIDTH), frames.reshape(batch, -1, WIDTH)]
    return self.out(torch.cat(joined, 1))

  def forward(self, x):
    """Computes x + attention(norm(x)), then x + mlp(norm(x))."""
    x = x + self.attention(self.norm1(x))
    y = self.up(self.norm2(x))
    return x + self.down(y * torch.sigmoid(1.702 * y))


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
  parser.add_argument("--patch", type=int, default=32)
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
  patches = (224 // options.patch) ** 2
  blocks = [Block(options.frames, patches, options.sdpa) for _ in range(12)]
  net = nn.Sequential(*blocks).to(options.device)
  run = torch.compile(net) if options.compile else net
  x = torch.randn(options.batch, PROXIES + options.frames * patches, WIDTH, device=options.device)

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
