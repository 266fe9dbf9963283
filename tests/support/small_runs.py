"""Runs on the smallest corpus: recipes, and the command line as a user starts it."""

import sys

from configs import mixed, post_pretrain


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
