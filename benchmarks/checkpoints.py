"""Benchmark of checkpoints of a full-size train state: time of blocking, writing, restoring and verifying.

  python -m benchmarks.checkpoints [--recipe=b32] [--folder=DIR] [--rounds=4]

Uses the recipe's state with random parameters and moments. As a lower bound for the disk, also writes and reads the
same bytes as one plain file. Prints the best of the rounds; reads are served from the page cache. "Restored"
verifies digests while reading; another measurement omits the verification. They take turns in being the first after
the file was written, which is slower.
"""

import argparse
import contextlib
import os
import pathlib
import tempfile
import time
import unittest.mock

import jax
import numpy as np

from benchmarks.train_step import random_params
from clipvip_jax.configs import post_pretrain
from clipvip_jax.models import clip_vip
from clipvip_jax.runs import checkpoint_storage
from clipvip_jax.runs.checkpoint import Checkpoints
from clipvip_jax.training import optimizer
from clipvip_jax.training.train_step import state_shapes


def measure(state, folder: pathlib.Path, *, verified_first: bool) -> dict[str, float]:
  """Returns the seconds of each phase in one round."""
  checkpoints = Checkpoints(folder / "checkpoints", 1)
  started = time.perf_counter()
  checkpoints.save(state, {"next_record": 0})
  blocked = time.perf_counter() - started
  checkpoints.close()
  written = time.perf_counter() - started
  checkpoints = Checkpoints(folder / "checkpoints", 1)
  seconds = {"training blocked": blocked, "written": written}
  abstract_state = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
  os.sync()
  ways = {"restored": checkpoint_storage.verified, "restored without verification": contextlib.nullcontext}
  for name, verified in sorted(ways.items(), reverse=not verified_first):
    with unittest.mock.patch.object(checkpoint_storage, "verified", verified):
      started = time.perf_counter()
      jax.block_until_ready(checkpoints.restore_latest(abstract_state))
      seconds[name] = time.perf_counter() - started
  checkpoints.close()
  return {**seconds, **_plain(state, folder / "plain")}


def _plain(state, path: pathlib.Path) -> dict[str, float]:
  started = time.perf_counter()
  with path.open("wb") as file:
    for x in jax.tree.leaves(state):
      file.write(np.asarray(x).tobytes())
  written = time.perf_counter() - started
  started = time.perf_counter()
  path.read_bytes()
  return {"plain file, written": written, "plain file, read": time.perf_counter() - started}


def main() -> None:
  """Runs all rounds and prints a table."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--recipe", default="b32", help="variants of configs/post_pretrain.py")
  parser.add_argument("--folder", help="folder on the disk to measure (default: the temporary folder)")
  parser.add_argument("--rounds", type=int, default=4)
  options = parser.parse_args()
  config = post_pretrain.get_config(options.recipe)
  model, (tx, _) = clip_vip.from_config(config.model), optimizer.from_config(config.optimizer, 1_000)
  state = jax.tree.map(jax.numpy.asarray, random_params(state_shapes(config, model, tx)))
  size = sum(x.nbytes for x in jax.tree.leaves(state))
  rounds = []
  for index in range(options.rounds):
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
      rounds.append(measure(state, pathlib.Path(folder), verified_first=index % 2 == 0))
  print(f"B/{config.model.patch_size}, train state of {size / 1e9:.2f} GB")
  for name in rounds[0]:
    print(f"  {name:30}{min(seconds[name] for seconds in rounds):8.2f} s")


if __name__ == "__main__":
  main()
