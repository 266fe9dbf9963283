"""CLIP-ViP: a video tower and a text tower that share one embedding space.

Letters: B batch, T frames, S side in pixels or tokens of a text, E embedding size.
"""

from typing import Any

import einops
import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from clipvip_jax.models.proxy_attention import IMPLEMENTATIONS
from clipvip_jax.models.temporal import SequenceTransformer, each_frame, l2_normalize, mean_pooling
from clipvip_jax.models.text import TextTower
from clipvip_jax.models.transformer import ACTIVATIONS
from clipvip_jax.models.vision import EMBEDDING_INITS, VisionTower
from clipvip_jax.utils.errors import UserError

# What CLIP-ViP sets when it starts from CLIP, whatever the checkpoint says; similarities are multiplied by its exp.
INITIAL_LOGIT_SCALE = 4.60

# How frames become one video: the paper's method, and the baselines that it compares itself with.
TEMPORAL = {
  "proxies": lambda model, video: l2_normalize(model.vision(video)),
  "full": lambda model, video: l2_normalize(model.vision(video)),  # the tower's blocks differ
  "sequence": lambda model, video: l2_normalize(mean_pooling(model.sequence(each_frame(model.vision, video)))),
  "mean": lambda model, video: l2_normalize(mean_pooling(each_frame(model.vision, video))),
}
# Those in which the vision tower sees one frame at a time.
_BY_FRAME = ("sequence", "mean")
# Blocks of temporal="sequence", as in CLIP4Clip.
SEQUENCE_LAYERS = 4
# What the towers compute in; parameters, norms' statistics, softmax and features are float32 in any case.
DTYPES = ("float32", "bfloat16")


class ClipVip(nn.Module):
  """Both towers and the temperature. Features are float32 and of unit length."""

  vision: VisionTower
  text: TextTower
  temporal: str = "proxies"
  sequence: SequenceTransformer | None = None  # of temporal="sequence"

  def setup(self):
    self.logit_scale = self.param("logit_scale", nn.initializers.constant(INITIAL_LOGIT_SCALE), ())

  def embed_video(self, video: Float[Array, "b t s s 3"]) -> Float[Array, "b e"]:
    """Normalised pixels -> unit features. An image is a clip with T = 1."""
    return TEMPORAL[self.temporal](self, video)

  def embed_text(self, ids: Int[Array, "b s"]) -> Float[Array, "b e"]:
    """Token ids, start and end included -> unit features."""
    return l2_normalize(self.text(ids))

  def proxy_attention(self, video: Float[Array, "b t s s 3"]) -> Float[Array, "b m t l"]:
    """What each proxy looks at: shares of its attention in the last block, on every patch of every frame, float32.

    Averaged over heads. Where frames are seen one at a time, a frame's shares are divided by T.
    """
    shares: list[Array] = []
    if self.temporal not in _BY_FRAME:
      self.vision(video, watch=shares.append)
      return shares[-1]
    each_frame(lambda frames: self.vision(frames, watch=shares.append), video)
    frames = video.shape[1]
    return einops.rearrange(shares[-1], "(b t) m 1 l -> b m t l", t=frames) / frames

  def __call__(self, video, ids):
    """(video features, text features, logit scale): what initialises every parameter."""
    return self.embed_video(video), self.embed_text(ids), self.logit_scale


def _check_sizes(config: Any) -> None:
  """Raises UserError for a size that is no size."""
  least = {"added_proxies": 0, "time_positions": 0, "vocab_size": 4, "positions": 2}
  if not 0 <= config.get("patch_dropout", 0.0) < 1:
    raise UserError(f"model.patch_dropout={config.patch_dropout} must be at least 0 and below 1")
  if config.temporal == "sequence":
    if config.get("sequence_layers", SEQUENCE_LAYERS) < 1:
      raise UserError(f"model.sequence_layers={config.sequence_layers} must be at least 1")
    if config.embed_dim % config.text.heads:
      raise UserError(
        f"model.embed_dim={config.embed_dim} is no multiple of model.text.heads={config.text.heads}, which"
        " temporal=sequence takes over"
      )
  sections = {"": ("image_size", "patch_size", "embed_dim"), "vision": config.vision, "text": config.text}
  for section, fields in sections.items():
    for field in fields:
      value = config[section][field] if section else config[field]
      if value < least.get(field, 1):
        name = f"model.{section}.{field}" if section else f"model.{field}"
        raise UserError(f"{name}={value} must be at least {least.get(field, 1)}")
  if config.embedding_init == "scratch" and config.vision.width % 4:
    raise UserError(f"model.vision.width={config.vision.width} must be a multiple of 4 for embedding_init=scratch")


def parameter_shapes(config: Any) -> dict[str, Any]:
  """The parameters' shapes and types of `config.model`, as a nested tree.

  Blocks of a tower are alike, so one of them is traced: twelve take half a second.

  Raises:
    UserError: as `from_config`.
  """
  one = config.copy_and_resolve_references()
  one.unlock()
  one.vision.layers = one.text.layers = 1
  one.attention = "xla"  # has the same parameters and asks for no devices, which may not have been joined yet
  video = jax.ShapeDtypeStruct((1, 1, config.image_size, config.image_size, 3), jnp.float32)
  ids = jax.ShapeDtypeStruct((1, 2), jnp.int32)
  key = jax.eval_shape(jax.random.key, 0)
  params = jax.eval_shape(from_config(one).init, key, video, ids)["params"]
  for tower in ("vision", "text"):
    blocks = params[tower]["transformer"]
    blocks |= {f"block_{i}": blocks["block_0"] for i in range(1, config[tower].layers)}
  return params


def from_config(config: Any) -> ClipVip:
  """The model of `config.model`; `configs/common.py` documents each field.

  Raises:
    UserError: sizes that do not fit together, or a name that is none of those allowed.
  """
  _check_sizes(config)
  if config.image_size % config.patch_size:
    raise UserError(f"model.image_size={config.image_size} is no multiple of model.patch_size={config.patch_size}")
  for tower in ("vision", "text"):
    width, heads = config[tower].width, config[tower].heads
    if width % heads:
      raise UserError(f"model.{tower}.width={width} is no multiple of model.{tower}.heads={heads}")
  for field, allowed in (
    ("temporal", TEMPORAL),
    ("activation", ACTIVATIONS),
    ("dtype", DTYPES),
    ("embedding_init", EMBEDDING_INITS),
    ("attention", IMPLEMENTATIONS),
  ):
    if field in config and config[field] not in allowed:
      raise UserError(f"model.{field}={config[field]!r} is unknown; allowed: {', '.join(allowed)}")
  shared = {
    "embed_dim": config.embed_dim,
    "activation": config.activation,
    "embedding_init": config.embedding_init,
    "dtype": jnp.dtype(config.dtype),
    "remat": config.get("remat", False),
    "attention": config.get("attention", "auto"),
  }
  vision = VisionTower(
    image_size=config.image_size,
    patch_size=config.patch_size,
    full_attention=config.temporal == "full",
    patch_dropout=config.get("patch_dropout", 0.0),
    **config.vision.to_dict(),
    **shared,
  )
  text = TextTower(**config.text.to_dict(), **shared)
  return ClipVip(vision, text, config.temporal, _sequence(config) if config.temporal == "sequence" else None)


def _sequence(config: Any) -> SequenceTransformer:
  """Blocks and positions of the text tower's sizes."""
  return SequenceTransformer(
    positions=config.text.positions,
    layers=config.get("sequence_layers", SEQUENCE_LAYERS),
    heads=config.text.heads,
    mlp=config.text.mlp,
    activation=config.activation,
    dtype=jnp.dtype(config.dtype),
  )
