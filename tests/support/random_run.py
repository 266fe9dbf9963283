"""Weights of a run with random parameters."""

import numpy as np
import tiny
from flax import traverse_util
from ml_collections import ConfigDict

from clipvip_jax.models import clip_vip
from clipvip_jax.weights import sources


def random_run(added=2, time=5, temporal="proxies", tokenizer="", trained_tokenizer="words", crop="squash"):
  """Weights of a run, random, with numbers of frames and tokens that no shape determines."""
  config = tiny.config(added, time, temporal=temporal)
  params = traverse_util.flatten_dict(tiny.random_params(clip_vip.from_config(config), 6), sep="/")
  params = {name: np.asarray(x) for name, x in params.items()}
  is_clip = not added and not time
  data = {"num_frames": 6, "text_length": 9, "tokenizer": trained_tokenizer, "crop": crop}
  return sources.Weights("a run", params, config, is_clip, ConfigDict({"data": data, "model": config}), tokenizer)
