"""Benchmark beside PyTorch: the training step, embedding of videos and embedding of texts, in alternating rounds.

  python -m benchmarks.beside_torch --peer='/path/to/python benchmarks/torch_step.py' [--what=step,videos,texts]
    [--model=b32] [--batch=4] [--frames=12] [--text_length=70] [--videos=16] [--texts=256] [--dtype=float32]
    [--repeats=3] [--rounds=2]

Both sides get the same random weights and inputs, and must agree: loss and norm of the gradient of the first step, sums
of absolute features. A round measures ours, then the peer in a process of its own; the table shows the least seconds.
Texts have the lengths of captions (`texts`: 4 to about 30 tokens) or all the same (`even_texts`: 14 tokens).
"""

import argparse
import dataclasses
import json
import math
import pathlib
import shlex
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np
from flax import traverse_util
from ml_collections import ConfigDict

from benchmarks import train_step
from benchmarks.peer import run_peer
from benchmarks.train_step import Programs, random_params
from clipvip_jax.inference.embedding_model import EmbeddingModel
from clipvip_jax.models import clip_vip
from clipvip_jax.utils.cli import Parser, run_command
from clipvip_jax.utils.errors import UserError
from clipvip_jax.weights import names_clip_vip

WHAT = ("step", "videos", "texts", "even_texts")
AGREEMENT = {"float32": 1e-4, "bfloat16": 2e-2}  # relative
_EVEN_LENGTH = 14
_BATCH = 32  # the default of `clipvip_jax.load`


@dataclasses.dataclass(frozen=True)
class Case:
  """One side of a comparison.

  Attributes:
    call: measured.
    first: numbers of the first call, which the peer's must equal.
    params: {parameter name: array}, before the first call.
    inputs: of the peer; see `write_inputs`.
    what: option of the peer.
  """

  call: Callable[[], object]
  first: Mapping[str, float]
  params: Mapping[str, np.ndarray]
  inputs: Mapping[str, np.ndarray]
  what: str


def recipe(options: argparse.Namespace) -> ConfigDict:
  """Returns the configuration to measure."""
  config = train_step.recipe(options.model, options.batch, options.dtype)
  config.data.update({"num_frames": options.frames, "text_length": options.text_length})
  return config


def write_inputs(
  path: pathlib.Path, model: ConfigDict, params: Mapping[str, np.ndarray], inputs: Mapping[str, np.ndarray]
) -> None:
  """Writes a file for `torch_step.py --inputs`.

  Args:
    path: FILE.npz.
    model: `config.model`, whose sizes become the fields of `Sizes` of torch_model.py.
    params: {parameter name: array}.
    inputs: pixels with channels last, and ids.
  """
  sizes: dict[str, object] = {name: model[name] for name in ("image_size", "patch_size", "embed_dim")}
  sizes |= {name: model.vision[name] for name in ("added_proxies", "time_positions")}
  sizes |= {name: model.text[name] for name in ("vocab_size", "positions")}
  for tower in ("vision", "text"):
    sizes[tower] = {name: model[tower][name] for name in ("width", "layers", "heads", "mlp")}
  weights = names_clip_vip.from_flat(params, position_ids=False)
  np.savez(path, sizes=json.dumps(sizes), **weights, **inputs)


def step_case(config: ConfigDict) -> Case:
  """Returns the training step, compiled, after its first update."""
  programs = Programs(config)
  flat = traverse_util.flatten_dict(programs.state.params, sep="/")
  params = {name: np.array(x) for name, x in flat.items()}  # copies: the step donates its state
  batch = {name: np.asarray(x) for name, x in programs.batch.items() if not name.endswith("_mask")}

  def call() -> Mapping[str, jax.Array]:
    programs.state, metrics = programs.step(programs.state, programs.batch)
    return metrics

  first = {name: float(x) for name, x in call().items() if name in ("loss", "grad_norm")}
  print(f"step: compiled in {programs.compile_seconds:.1f} s")
  return Case(call, first, params, batch, "step")


def embedding_case(config: ConfigDict, what: str, count: int) -> Case:
  """Returns the embedding of `count` videos or texts, compiled, after its first call."""
  rng = np.random.default_rng(0)
  params = random_params(clip_vip.parameter_shapes(config.model))
  ids = _texts(rng, config, count, even=what == "even_texts")
  model = EmbeddingModel("random", config, jax.device_put(params), lambda *_: ids, batch_size=min(count, _BATCH))
  if what == "videos":
    side = config.model.image_size
    pixels = rng.standard_normal((count, config.data.num_frames, side, side, 3), np.float32)
    inputs = {"video": pixels}

    def call() -> np.ndarray:
      return np.array(list(model.embed_pixels(pixels)))
  else:
    # The peer pads to the longest text.
    inputs = {"text": ids[:, : int(ids.argmax(1).max()) + 1]}

    def call() -> np.ndarray:
      return model.embed_texts([""] * count)

  first = {"loss": float(np.abs(call()).sum())}
  flat = traverse_util.flatten_dict(params, sep="/")
  return Case(call, first, flat, inputs, "videos" if what == "videos" else "texts")


def _texts(rng: np.random.Generator, config: ConfigDict, count: int, *, even: bool) -> np.ndarray:
  """Returns random ids [count, text_length] with an end token each."""
  end, longest = config.model.text.vocab_size - 1, config.data.text_length
  lengths = 2 + rng.lognormal(math.log(10), 0.35, count).round().astype(int)
  lengths = np.minimum(np.full(count, _EVEN_LENGTH) if even else lengths, longest)
  ids = rng.integers(1, end, (count, longest), np.int32)
  last = lengths[:, None] - 1
  positions = np.arange(longest)
  return np.where(positions < last, ids, np.where(positions == last, end, 0)).astype(np.int32)


def least_seconds(call: Callable[[], object], repeats: int) -> float:
  """Returns the least seconds of a call."""
  times = []
  for _ in range(repeats):
    started = time.perf_counter()
    jax.block_until_ready(call())
    times.append(time.perf_counter() - started)
  return min(times)


def compare(case: Case, peer: Sequence[str], options: argparse.Namespace) -> tuple[float, float]:
  """Measures both sides in alternating rounds.

  Returns:
    The least seconds of ours and of the peer.

  Raises:
    ValueError: the numbers of the first call differ.
  """
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / "inputs.npz"
    write_inputs(path, recipe(options).model, case.params, case.inputs)
    flags = {"what": case.what, "inputs": path, "dtype": options.dtype, "repeats": options.repeats}
    command = [*peer, *(f"--{name}={value}" for name, value in flags.items())]
    ours, theirs = [], []
    for _ in range(options.rounds):
      ours.append(least_seconds(case.call, options.repeats))
      result = run_peer(command)
      theirs.append(result["seconds"])
      for name, value in case.first.items():
        if not math.isclose(value, result[name], rel_tol=AGREEMENT[options.dtype]):
          raise ValueError(f"{name} of the first call: ours {value}, peer {result[name]}")
  return min(ours), min(theirs)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
  """Parses the command line."""
  parser = Parser(__doc__)
  parser.add_argument("--peer", required=True, help="command of torch_step.py, with its options")
  parser.add_argument("--what", default=",".join(WHAT), help=f"some of {', '.join(WHAT)}")
  parser.add_argument("--model", default="b32", choices=("b32", "b16", "l14", "tiny"))
  parser.add_argument("--batch", type=int, default=4, help="clips of the step")
  parser.add_argument("--frames", type=int, default=12)
  parser.add_argument("--text_length", type=int, default=70)
  parser.add_argument("--videos", type=int, default=16)
  parser.add_argument("--texts", type=int, default=256)
  parser.add_argument("--dtype", default="float32", choices=clip_vip.DTYPES)
  parser.add_argument("--repeats", type=int, default=3)
  parser.add_argument("--rounds", type=int, default=2)
  options = parser.parse_args(arguments)
  options.what = options.what.split(",")
  if unknown := {*options.what} - {*WHAT}:
    raise UserError(f"--what={min(unknown)} is unknown; allowed: {', '.join(WHAT)}")
  return options


def main(arguments: Sequence[str] | None = None) -> None:
  """Runs all rounds and prints a row for each comparison."""
  options = parse(arguments)
  config, counts = recipe(options), {"step": options.batch, "videos": options.videos}
  print(f"{options.model}, {options.frames} frames, {options.dtype}, {jax.devices()[0].device_kind}")
  for what in options.what:
    count = counts.get(what, options.texts)
    case = step_case(config) if what == "step" else embedding_case(config, what, count)
    ours, theirs = compare(case, shlex.split(options.peer), options)
    print(f"{what:10} {count:4}  ours {ours:8.3f} s  peer {theirs:8.3f} s  speed-up {theirs / ours:.2f}", flush=True)


if __name__ == "__main__":
  run_command(main)
