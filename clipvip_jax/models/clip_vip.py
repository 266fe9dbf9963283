"""CLIP-ViP: a video tower and a text tower with a joint embedding space.

Letters: B batch, T frames, S side in pixels or tokens of a text, L patches per frame, M proxies, E embedding size.
"""

from collections.abc import Mapping
from typing import Any, TypeAlias

import einops
import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import NamedSharding
from jaxtyping import Array, Float, Int
from ml_collections import ConfigDict

from clipvip_jax.models.attention import IMPLEMENTATIONS
from clipvip_jax.models.dense import ACTIVATIONS
from clipvip_jax.models.initializers import EMBEDDING_INITS
from clipvip_jax.models.temporal import SequenceTransformer, each_frame, l2_normalize, mean_pooling
from clipvip_jax.models.text import TextTower
from clipvip_jax.models.transformer import INTERMEDIATES, PROXY_WEIGHTS
from clipvip_jax.models.vision import VisionTower
from clipvip_jax.utils.errors import UserError

# Parameters, or their shapes, as nested dicts: {"vision": {"projection": {"kernel": array}}}.
Params: TypeAlias = Mapping[str, Any]

# Replaces the checkpoint's value when training starts from CLIP. Similarities are multiplied by its exponential.
INITIAL_LOGIT_SCALE = 4.60

# From frames to a video feature: the paper's method and the baselines that it compares against.
TEMPORAL = {
  "proxies": lambda model, video: l2_normalize(model.vision(video)),
  "full": lambda model, video: l2_normalize(model.vision(video)),  # the vision tower has another attention pattern
  "sequence": lambda model, video: l2_normalize(mean_pooling(model.sequence(each_frame(model.vision, video)))),
  "mean": lambda model, video: l2_normalize(mean_pooling(each_frame(model.vision, video))),
}
_BY_FRAME = ("sequence", "mean")  # the vision tower embeds each frame separately
DEFAULT_SEQUENCE_LAYERS = 4  # as in CLIP4Clip
# Of the towers' computation. Parameters, norm statistics, softmax and features are always float32.
DTYPES = ("float32", "bfloat16")
# Lower bounds of sizes that may not start at 1.
_MIN_SIZES = {"added_proxies": 0, "time_positions": 0, "vocab_size": 4, "positions": 2}
# Upper bounds: a typing error must not fill the memory while the model is traced.
_MAX_LAYERS, _MAX_SIZE = 1000, 2**20


class ClipVip(nn.Module):
  """Both towers and the temperature. Features are float32 and L2-normalised.

  Attributes:
    vision: the video tower.
    text: the text tower.
    temporal: a key of TEMPORAL.
    sequence: of temporal="sequence".
  """

  vision: VisionTower
  text: TextTower
  temporal: str = "proxies"
  sequence: SequenceTransformer | None = None

  def setup(self):
    self.logit_scale = self.param("logit_scale", nn.initializers.constant(INITIAL_LOGIT_SCALE), ())

  def embed_video(self, video: Float[Array, "b t s s 3"]) -> Float[Array, "b e"]:
    """Embeds clips of normalised pixels. An image is a clip with T = 1."""
    return TEMPORAL[self.temporal](self, video)

  def embed_text(self, ids: Int[Array, "b s"]) -> Float[Array, "b e"]:
    """Embeds token ids, start and end tokens included."""
    return l2_normalize(self.text(ids))

  def __call__(
    self, video: Float[Array, "b t s s 3"], ids: Int[Array, "b s"]
  ) -> tuple[Float[Array, "b e"], Float[Array, "b e"], Float[Array, ""]]:
    """Returns (video features, text features, logit scale); initialises every parameter."""
    return self.embed_video(video), self.embed_text(ids), self.logit_scale


def proxy_attention_weights(
  model: ClipVip, params: Params, video: Float[Array, "b t s s 3"]
) -> Float[Array, "b m t l"]:
  """Returns attention weights of each proxy on every patch of every frame: [B, M, T, L] in float32.

  They are those of the last block, averaged over heads. They sum to at most 1 over T and L; the rest falls on the
  proxies. Where frames are embedded separately, the weights of a frame are divided by T.
  """
  _, variables = model.apply({"params": params}, video, method="embed_video", mutable=[INTERMEDIATES])
  last_block = variables[INTERMEDIATES]["vision"]["transformer"][f"block_{model.vision.layers - 1}"]
  (weights,) = last_block["attention"][PROXY_WEIGHTS]
  num_frames = video.shape[1]
  if model.temporal in _BY_FRAME:
    return einops.rearrange(weights, "(b t) m l -> b m t l", t=num_frames) / num_frames
  return einops.rearrange(weights, "b m (t l) -> b m t l", t=num_frames)


def from_config(config: ConfigDict) -> ClipVip:
  """Builds the model of `config.model`; `configs/common.py` documents each field.

  Raises:
    UserError: sizes that do not fit together, or an unknown name.
  """
  _check_config(config)
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
  sequence = _sequence_transformer(config) if config.temporal == "sequence" else None
  return ClipVip(vision, text, config.temporal, sequence)


def with_heads_sharding(model: ClipVip, sharding: NamedSharding) -> ClipVip:
  """Returns the model for inputs that several devices share.

  Args:
    model: both towers.
    sharding: of arrays [B, N, H d] of N tokens and H heads of width d; see `distributed.sharding.heads_sharding`.
  """
  return model.clone(vision=model.vision.clone(heads_sharding=sharding))


def _sequence_transformer(config: ConfigDict) -> SequenceTransformer:
  """Takes heads, hidden units and positions from the text tower, whose blocks it starts from."""
  return SequenceTransformer(
    positions=config.text.positions,
    layers=config.get("sequence_layers", DEFAULT_SEQUENCE_LAYERS),
    heads=config.text.heads,
    mlp=config.text.mlp,
    activation=config.activation,
    dtype=jnp.dtype(config.dtype),
  )


def parameter_shapes(config: ConfigDict) -> dict[str, Any]:
  """Returns the parameters of `config.model` as a nested dict of `jax.ShapeDtypeStruct`.

  Traces one block per tower and repeats it: tracing all of a tower takes several times as long.

  Raises:
    UserError: as `from_config`.
  """
  single = config.copy_and_resolve_references()
  with single.unlocked():
    single.vision.layers = single.text.layers = 1
    single.attention = "xla"  # same parameters; does not initialise JAX's devices, which may not be joined yet
  video = jax.ShapeDtypeStruct((1, 1, config.image_size, config.image_size, 3), jnp.float32)
  ids = jax.ShapeDtypeStruct((1, 2), jnp.int32)
  key = jax.eval_shape(jax.random.key, 0)
  params = jax.eval_shape(from_config(single).init, key, video, ids)["params"]
  for tower in ("vision", "text"):
    blocks = params[tower]["transformer"]
    blocks |= {f"block_{i}": blocks["block_0"] for i in range(1, config[tower].layers)}
  return params


def _check_config(config: ConfigDict) -> None:
  """Raises UserError for sizes out of range or not divisible, and for unknown names."""
  _check_sizes(config)
  _check_divisible(config, "image_size", config.patch_size, "patch_size")
  for tower in ("vision", "text"):
    _check_divisible(config, f"{tower}.width", config[tower].heads, f"{tower}.heads")
  if config.temporal == "sequence":
    _check_divisible(config, "embed_dim", config.text.heads, "text.heads", " (shared by temporal=sequence)")
  if config.embedding_init == "scratch":
    _check_divisible(config, "vision.width", 4, "", " for embedding_init=scratch")
  for field, allowed in (
    ("temporal", TEMPORAL),
    ("activation", ACTIVATIONS),
    ("dtype", DTYPES),
    ("embedding_init", EMBEDDING_INITS),
    ("attention", IMPLEMENTATIONS),
  ):
    if field in config and config[field] not in allowed:
      raise UserError(f"model.{field}={config[field]!r} is unknown; allowed: {', '.join(allowed)}")


def _check_sizes(config: ConfigDict) -> None:
  """Raises UserError for a size that is out of range or, as of a config.json that was edited, not an integer."""
  if not 0 <= config.get("patch_dropout", 0.0) < 1:
    raise UserError(f"model.patch_dropout={config.patch_dropout} must be at least 0 and below 1")
  sizes = {f"model.{field}": config[field] for field in ("image_size", "patch_size", "embed_dim")}
  if config.temporal == "sequence":
    sizes["model.sequence_layers"] = config.get("sequence_layers", DEFAULT_SEQUENCE_LAYERS)
  for tower in ("vision", "text"):
    sizes |= {f"model.{tower}.{field}": size for field, size in config[tower].items()}
  for name, size in sizes.items():
    minimum = _MIN_SIZES.get(name.rpartition(".")[2], 1)
    maximum = _MAX_LAYERS if name.endswith("layers") else _MAX_SIZE
    if type(size) is not int:
      raise UserError(f"{name}={size!r} must be an integer.")
    if size < minimum:
      raise UserError(f"{name}={size} must be at least {minimum}")
    if size > maximum:
      raise UserError(f"{name}={size} must be at most {maximum}")


def _check_divisible(config: ConfigDict, field: str, divisor: int, divisor_field: str, where: str = "") -> None:
  """Raises UserError where `model.FIELD` is not divisible by `divisor`, which `model.DIVISOR_FIELD` sets if named."""
  section, _, name = field.rpartition(".")
  size = config[section][name] if section else config[name]
  if size % divisor:
    of = f"model.{divisor_field}={divisor}" if divisor_field else str(divisor)
    raise UserError(f"model.{field}={size} is not divisible by {of}{where}; use a multiple of {divisor}")
