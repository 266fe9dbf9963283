"""Flips single bits of all files of a checkpoint, a corpus and a video index, and counts what reading them does.

  python -m benchmarks.bit_flips [--flips=500] [--seed=0]

A flip is "refused" (one line, or the previous checkpoint with a warning), "harmless" (what is read is equal), a
"traceback", or "silent": something differs without a word. Exits with 1 if any is silent or a traceback.
"""

import argparse
import collections
import hashlib
import logging
import pathlib
import shutil
import sys
import tempfile
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from clipvip_jax.configs import post_pretrain
from clipvip_jax.inference import video_index
from clipvip_jax.input_pipeline.open_corpus import open_corpus
from clipvip_jax.runs.checkpoint import Checkpoints, read_params
from clipvip_jax.runs.train_state import TrainState
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import log

_BATCH_SIZE = 16
_OUTCOMES = ("refused", "harmless", "traceback", "silent")


def _state(step: int) -> TrainState:
  keys = jax.random.split(jax.random.key(step))
  params = {"text": {"a": jax.random.normal(keys[0], (64, 64))}, "vision": {"b": jax.random.normal(keys[1], (32, 64))}}
  return TrainState(step=jnp.int32(step), params=params, opt_state=optax.adam(1e-3).init(params))


def write_checkpoints(folder: pathlib.Path) -> Callable[[pathlib.Path], object]:
  """Writes two checkpoints with scores; returns a function that reads them as `load` and a resumed run do."""
  checkpoints = Checkpoints(folder, 2, _BATCH_SIZE)
  for step in (1, 2):
    checkpoints.save(_state(step), {"next_record": _BATCH_SIZE * step})
    checkpoints.set_score(step, 0.25 * step)
  checkpoints.close()
  abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), _state(0))

  def read(folder: pathlib.Path) -> object:
    params, step = read_params(folder)
    checkpoints = Checkpoints(folder, 2, _BATCH_SIZE)
    state, position = checkpoints.restore_latest(abstract)  # type: ignore[misc]
    best = checkpoints.best_step()
    checkpoints.close()
    return step, best, position, [np.asarray(x).tobytes() for x in jax.tree.leaves((params, state))]

  return read


def write_corpus(folder: pathlib.Path) -> Callable[[pathlib.Path], object]:
  """Builds the smallest corpus; returns a function that reads all records and metadata."""
  config = post_pretrain.get_config("smoke").data.unlock()
  config.data_dir = str(folder)
  open_corpus(config)
  shutil.rmtree(folder / "moving_shapes_videos")  # which the corpus was built from
  config.prepare = False

  def read(folder: pathlib.Path) -> object:
    config.data_dir = str(folder)
    corpus = open_corpus(config)
    digest = hashlib.sha256()
    for split in ("train", "validation", "test", "test_unseen"):
      for record in corpus.records(split):
        digest.update(repr(sorted(record.items(), key=lambda item: item[0])).encode())
    return digest.hexdigest(), corpus.identity(), corpus.metadata

  return read


def write_index(folder: pathlib.Path) -> Callable[[pathlib.Path], object]:
  """Writes a video index; returns a function that reads it."""
  folder.mkdir()
  features = np.random.default_rng(0).normal(size=(8, 16)).astype(np.float32)
  names = [f"video{i}.mp4" for i in range(8)]
  path = "index.safetensors"
  video_index.write_index(folder / path, video_index.VideoIndex(features, names, "run", "model", ["bad"], ["reason"]))

  def read(folder: pathlib.Path) -> object:
    index = video_index.read_index(folder / path)
    return index.features.tobytes(), index.videos, index.source, index.identity, index.bad, index.reasons

  return read


def flip(original: pathlib.Path, read: Callable[[pathlib.Path], object], expected: object, rng) -> tuple[str, str]:
  """Flips a bit of a random file in a copy. Returns (outcome, which file and bit)."""
  with tempfile.TemporaryDirectory() as temporary:
    folder = pathlib.Path(temporary) / original.name
    shutil.copytree(original, folder)
    path = rng.choice(sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size))
    content = bytearray(path.read_bytes())
    bit = int(rng.integers(8 * len(content)))
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)
    where = f"{path.relative_to(folder)}, bit {bit}"
    warned: list[logging.LogRecord] = []
    log.handlers[:] = [logging.Handler()]
    log.handlers[0].emit = lambda record: warned.append(record)  # type: ignore[method-assign]
    try:
      same = read(folder) == expected
    except UserError:
      return "refused", where
    except Exception as error:
      return "traceback", f"{where}: {type(error).__name__}"
    if warned:
      return "refused", where
    return ("harmless" if same else "silent"), where


def main() -> None:
  """Flips bits and prints a table."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--flips", type=int, default=500)
  parser.add_argument("--seed", type=int, default=0)
  options = parser.parse_args()
  logging.disable(logging.INFO)
  log.propagate = False
  rng = np.random.default_rng(options.seed)
  counts: dict[str, collections.Counter[str]] = {}
  with tempfile.TemporaryDirectory() as temporary:
    kinds = {"checkpoint": write_checkpoints, "corpus": write_corpus, "index": write_index}
    for number, (kind, write) in enumerate(kinds.items()):
      folder = pathlib.Path(temporary) / kind
      read = write(folder)
      expected = read(folder)
      counts[kind] = collections.Counter()
      for _ in range(options.flips // len(kinds) + (number < options.flips % len(kinds))):
        outcome, where = flip(folder, read, expected, rng)
        counts[kind][outcome] += 1
        if outcome in ("silent", "traceback"):
          print(f"{outcome}: {kind}: {where}")
  for kind, counter in counts.items():
    print(f"{kind:12}" + "  ".join(f"{name} {counter[name]:4}" for name in _OUTCOMES))
  sys.exit(any(counter["silent"] + counter["traceback"] for counter in counts.values()))


if __name__ == "__main__":
  main()
