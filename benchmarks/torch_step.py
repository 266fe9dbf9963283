"""PyTorch reference of the training step and of embedding: both towers, loss (d), backward, clipping, AdamW.

  PYTHON benchmarks/torch_step.py --model=b32 --batch=4 [--frames=12] [--text_length=70] [--device=cpu]
    [--dtype=float32] [--what=step] [--inputs=FILE.npz] [--bmm] [--compile] [--repeats=3]

Prints one line of JSON: the least seconds of a call after a warm-up, and the loss and the norm of the gradient of the
first step (of embedding: the sum of absolute features, as `loss`). Weights and batch are random, or those of --inputs,
which `python -m benchmarks.beside_torch` writes and compares with. --what=videos embeds `batch` videos, --what=texts
`batch` texts. Requires PyTorch 2.4 or later and NumPy.
"""

import argparse
import json
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch_model import SIZES, ClipVip, Sizes, Tower

LEARNING_RATE, WEIGHT_DECAY, CLIP_NORM = 5e-6, 0.05, 5.0
VISUAL, TEXTS = ("video", "frame"), ("subtitle", "caption")
TEXT_IDS = "text"  # input of --what=texts


def random_inputs(options: argparse.Namespace, sizes: Sizes) -> dict[str, Tensor]:
  """Returns random pixels, channels first, and tokens without padding."""
  generator = torch.Generator().manual_seed(0)
  side, end = sizes.image_size, sizes.vocab_size - 1

  def ids() -> Tensor:
    x = torch.randint(1, end, (options.batch, options.text_length), generator=generator)
    x[:, -1] = end
    return x

  frames = torch.randn(options.batch, options.frames, 3, side, side, generator=generator)
  return {"video": frames, "frame": frames[:, options.frames // 2], **{name: ids() for name in (*TEXTS, TEXT_IDS)}}


def load_inputs(path: str) -> tuple[Sizes, dict[str, Tensor], dict[str, Tensor]]:
  """Returns the sizes, the weights by published name, and the batch of a file of `benchmarks/beside_torch.py`."""
  with np.load(path) as file:
    arrays = {name: torch.from_numpy(file[name]) for name in file.files if name != "sizes"}
    fields = json.loads(str(file["sizes"]))
  sizes = Sizes(**{name: Tower(**x) if isinstance(x, dict) else x for name, x in fields.items()})
  batch = {name: arrays.pop(name) for name in (*VISUAL, *TEXTS, TEXT_IDS) if name in arrays}
  batch |= {name: batch[name].movedim(-1, -3).contiguous() for name in VISUAL if name in batch}
  batch |= {name: batch[name].long() for name in (*TEXTS, TEXT_IDS) if name in batch}
  return sizes, arrays, batch


def make_optimizer(model: nn.Module) -> torch.optim.AdamW:
  """Creates fused AdamW without weight decay on biases and the temperature."""
  groups: dict[float, list[Tensor]] = {0.0: [], WEIGHT_DECAY: []}
  for name, param in model.named_parameters():
    groups[0.0 if "bias" in name or name == "logit_scale" else WEIGHT_DECAY].append(param)
  params = [{"params": params, "weight_decay": decay} for decay, params in groups.items()]
  return torch.optim.AdamW(params, lr=LEARNING_RATE, betas=(0.9, 0.98), eps=1e-6, fused=True)


class Measurement:
  """A model on a device with its batch."""

  def __init__(self, options: argparse.Namespace):
    self.options = options
    sizes, weights, batch = SIZES[options.model], {}, {}
    if options.inputs:
      sizes, weights, batch = load_inputs(options.inputs)
    model = ClipVip(sizes, fused=not options.bmm)
    if weights:
      model.load_state_dict(weights)
    self.model = model.to(options.device)
    self.batch = {name: x.to(options.device) for name, x in (batch or random_inputs(options, sizes)).items()}

  def cast(self) -> torch.autocast:
    """Computes products in bfloat16 where requested."""
    return torch.autocast(self.options.device, torch.bfloat16, enabled=self.options.dtype == "bfloat16")

  def compiled(self, function: Callable) -> Callable:
    """Compiles a function where requested."""
    return torch.compile(function) if self.options.compile else function

  def step(self) -> Callable[[], tuple[Tensor, Tensor]]:
    """Returns a function that trains one step and returns the loss and the norm of the gradient before clipping."""
    optimizer, forward = make_optimizer(self.model), self.compiled(self.model)

    def call() -> tuple[Tensor, Tensor]:
      optimizer.zero_grad(set_to_none=True)
      with self.cast():
        loss = forward(*(self.batch[name] for name in (*VISUAL, *TEXTS)))
      loss.backward()
      norm = nn.utils.clip_grad_norm_(self.model.parameters(), CLIP_NORM)
      optimizer.step()
      return loss.detach(), norm

    return call

  def embedding(self, method: str, name: str) -> Callable[[], tuple[Tensor]]:
    """Returns a function that embeds an input and returns the sum of absolute features."""
    embed = self.compiled(getattr(self.model, method))

    def call() -> tuple[Tensor]:
      with torch.inference_mode(), self.cast():
        return (embed(self.batch[name]).abs().sum(),)

    return call


def measure(call: Callable[[], tuple[Tensor, ...]], device: str, repeats: int) -> tuple[float, list[float]]:
  """Returns the least seconds of a call after a warm-up, and the numbers that the warm-up returned."""

  def synchronize() -> None:
    if device == "cuda":
      torch.cuda.synchronize()

  first = [x.item() for x in call()]
  times = []
  for _ in range(repeats):
    synchronize()
    started = time.perf_counter()
    call()
    synchronize()
    times.append(time.perf_counter() - started)
  return min(times), first


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
  """Parses the command line."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--what", default="step", choices=("step", "videos", "texts"))
  parser.add_argument("--model", default="b32", choices=SIZES)
  parser.add_argument("--batch", type=int, default=4)
  parser.add_argument("--frames", type=int, default=12)
  parser.add_argument("--text_length", type=int, default=70)
  parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
  parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"), help="bfloat16 uses autocast")
  parser.add_argument("--threads", type=int, default=0, help="of the CPU; 0: PyTorch's default")
  parser.add_argument("--inputs", default="", help="file of weights and batch; precedes the sizes above")
  parser.add_argument("--bmm", action="store_true", help="attention by products, as published, instead of SDPA")
  parser.add_argument("--compile", action="store_true")
  parser.add_argument("--repeats", type=int, default=3)
  return parser.parse_args(arguments)


def main() -> None:
  """Measures and prints one line of JSON."""
  options = parse()
  if options.threads:
    torch.set_num_threads(options.threads)
  torch.manual_seed(0)
  measurement = Measurement(options)
  calls = {
    "step": measurement.step,
    "videos": lambda: measurement.embedding("embed_video", "video"),
    "texts": lambda: measurement.embedding("embed_text", TEXT_IDS),
  }
  seconds, first = measure(calls[options.what](), options.device, options.repeats)
  numbers = dict(zip(("loss", "grad_norm"), first, strict=False))
  device = torch.cuda.get_device_name() if options.device == "cuda" else options.device
  print(json.dumps({"seconds": seconds, **numbers, "device": device, "torch": torch.__version__}))


if __name__ == "__main__":
  main()
