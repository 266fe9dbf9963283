"""Runs on the smallest corpus: recipes, and the command line as a user starts it."""

import json
import sys

from clipvip_jax.configs import mixed, post_pretrain
from clipvip_jax.utils import file_digests


def config(corpus, variant="smoke", **changes):
  value = post_pretrain.get_config(variant)
  with value.unlocked():
    value.update_from_flattened_dict({"data.data_dir": str(corpus), **changes})
  return value


def mixed_config(corpus, **changes):
  value = mixed.get_config("smoke")
  with value.unlocked():
    value.update_from_flattened_dict({"data.data_dir": str(corpus), **changes})
  return value


def command(corpus, folder, *overrides):
  return [
    sys.executable,
    "-m",
    "clipvip_jax.main",
    "--config=configs/post_pretrain.py:smoke",
    f"--workdir={folder}",
    f"--config.data.data_dir={corpus}",
    "--config.train.num_steps=40",
    "--config.train.eval_every=20",
    "--config.train.checkpoint_every=4",
    "--config.host.log_every=1",
    *overrides,
  ]


def write_identity(workdir, step, identity):
  """Writes a checkpoint that holds nothing but the identity of its run."""
  folder = workdir / "checkpoints" / str(step)
  (folder / "identity").mkdir(parents=True)
  (folder / "identity" / "metadata").write_text(json.dumps(identity))
  file_digests.write_digests(folder)
