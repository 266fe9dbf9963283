"""The tiny model of the reference numbers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from ml_collections import ConfigDict

from clipvip_jax.models import clip_vip
from clipvip_jax.weights import names_clip_vip


def config(added_proxies=3, time_positions=4, **overrides) -> ConfigDict:
  """Sizes as in tests/golden/README.md."""
  return ConfigDict(
    {
      "image_size": 32,
      "patch_size": 8,
      "embed_dim": 32,
      "activation": "quick_gelu",
      "dtype": "float32",
      "embedding_init": "clip",
      "temporal": "proxies",
      "vision": {
        "width": 64,
        "layers": 2,
        "heads": 4,
        "mlp": 128,
        "added_proxies": added_proxies,
        "time_positions": time_positions,
      },
      "text": {"vocab_size": 100, "positions": 16, "width": 48, "layers": 2, "heads": 4, "mlp": 96},
      **overrides,
    }
  )


def model(**overrides):
  """The reference's tiny model, or a variant of it."""
  return clip_vip.from_config(config(**overrides))


@functools.cache
def random_params(net, frames=2, seed=0):
  """Parameters of which none is zero, drawn here: compiling the model's own initialisers would take ten seconds."""
  video, ids = np.zeros((1, frames, 32, 32, 3), np.float32), np.zeros((1, 4), np.int32)
  shapes = jax.eval_shape(net.init, jax.random.key(0), video, ids)["params"]
  rng = np.random.default_rng(seed)

  def draw(path, x):
    if path == ("logit_scale",):
      return np.float32(clip_vip.INITIAL_LOGIT_SCALE)
    noise = rng.normal(size=x.shape) * (0.1 if x.ndim < 2 else x.shape[-2] ** -0.5)
    return jnp.asarray((path[-1] == "scale") + noise, x.dtype)

  flat = traverse_util.flatten_dict(shapes)
  return traverse_util.unflatten_dict({path: draw(path, x) for path, x in flat.items()})


def params(golden, name="vip_tiny.safetensors"):
  """The reference's weights in our tree."""
  return nested(names_clip_vip.to_flat(golden(name), name))


def nested(params):
  """{name: array} as a tree."""
  return traverse_util.unflatten_dict(params, sep="/")


def channels_last(video):
  """[..., 3, H, W] -> [..., H, W, 3]."""
  return np.moveaxis(video.astype(np.float32), -3, -1)


def optimizer_config(**overrides) -> ConfigDict:
  """The optimizer of train.npz."""
  fields = {
    "learning_rate": 1e-3,
    "schedule": "cosine",
    "warmup_ratio": 0.25,
    "weight_decay": 0.05,
    "clip_norm": 5.0,
    "b1": 0.9,
    "b2": 0.98,
    "eps": 1e-6,
    "lr_multipliers": {},
    "frozen": (),
  }
  return ConfigDict({**fields, **overrides})
