"""Builds an `EmbeddingModel` from the weights of any source.

Letters: T frames, S image side in pixels.
"""

import os
from typing import Any

from flax import traverse_util
from ml_collections import ConfigDict

from clipvip_jax.distributed import sharding
from clipvip_jax.inference.embedding_model import EmbeddingModel
from clipvip_jax.input_pipeline.clip_bpe import CLIP_VOCAB_SIZE
from clipvip_jax.input_pipeline.frame_sampling import MAX_FRAMES
from clipvip_jax.input_pipeline.preprocessing import check_crop
from clipvip_jax.input_pipeline.tokenizer import Tokenizer
from clipvip_jax.input_pipeline.word_tokenizer import WORDS
from clipvip_jax.models import clip_vip
from clipvip_jax.runs.checkpoint_identity import load_recorded_tokenizer
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import quiet_libtpu
from clipvip_jax.weights import load_params, sources
from clipvip_jax.weights.model_config import Hints, checked_size

_DEFAULT_NUM_FRAMES = 12  # of the published models, for weights without a time embedding


def load(
  source: str | os.PathLike[str],
  *,
  num_frames: int | None = None,
  image_size: int | None = None,
  text_length: int | None = None,
  temporal: str | None = None,
  activation: str | None = None,
  vision_heads: int | None = None,
  text_heads: int | None = None,
  tokenizer: str | None = None,
  crop: str | None = None,
  dtype: str | None = None,
  batch_size: int = 32,
) -> EmbeddingModel:
  """Loads the weights of any source as a model that embeds videos and texts.

  Args:
    source: a file, a folder, hf://OWNER/NAME, or a run's workdir (its best checkpoint; WORKDIR@STEP for another).
      See `clipvip_jax.weights.source_paths`.
    num_frames: frames sampled from each video (T); None: as in training, or 12.
    image_size: height and width in pixels (S); None: as in training. Another size resizes the position embedding.
    text_length: tokens to which texts are truncated; None: as in training.
    temporal: a key of `clipvip_jax.models.clip_vip.TEMPORAL`; None: as in training, or "mean" for a plain CLIP.
    activation: "quick_gelu" or "gelu"; None: as the source states.
    vision_heads: attention heads of the video tower; None: as the source states, or one per 64 features.
    text_heads: attention heads of the text tower; None: likewise.
    tokenizer: "clip" or a tokenizer.json; None: the one next to the weights, or CLIP's for a vocabulary of 49,408.
    crop: how frames become square, "squash" or "center"; None: as in training, or "squash".
    dtype: dtype of the computation, "float32" or "bfloat16"; None: "float32".
    batch_size: most clips or texts of a batch over all devices, rounded up to a multiple of their number. CPUs compute
      fewer clips at once: those whose activations fit their caches.

  Raises:
    UserError: the source cannot be read, or an option does not fit its weights.
  """
  quiet_libtpu()
  source = os.fspath(source)
  sizes = {"num_frames": num_frames, "image_size": image_size, "text_length": text_length, "batch_size": batch_size}
  for name, value in {**sizes, "vision_heads": vision_heads, "text_heads": text_heads}.items():
    checked_size(value, name)
  if crop is not None:
    check_crop(crop, "crop")
  weights = sources.read_weights(source, Hints(activation, vision_heads, text_heads, crop=crop))
  return from_weights(
    weights,
    num_frames=num_frames,
    image_size=image_size,
    text_length=text_length,
    temporal=temporal,
    tokenizer=tokenizer,
    dtype=dtype,
    batch_size=batch_size,
  )


def from_weights(
  weights: sources.Weights,
  *,
  num_frames: int | None = None,
  image_size: int | None = None,
  text_length: int | None = None,
  temporal: str | None = None,
  tokenizer: str | None = None,
  dtype: str | None = None,
  batch_size: int = 32,
) -> EmbeddingModel:
  """Builds the model of weights that have been read, with their crop; arguments and errors are those of `load`."""
  # "attention" names an implementation for the devices of training.
  sizes = {name: value for name, value in weights.config.to_dict().items() if name != "attention"}
  config = ConfigDict({"model": sizes, "data": {}})
  config.model.dtype = dtype or "float32"
  config.model.image_size = image_size or config.model.image_size
  config.model.temporal = temporal or weights.temporal
  trained = weights.num_frames or config.model.vision.time_positions or _DEFAULT_NUM_FRAMES
  config.data.num_frames = trained if num_frames is None else num_frames
  config.data.text_length = (weights.text_length or config.model.text.positions) if text_length is None else text_length
  config.data.crop = weights.crop or "squash"
  check_crop(config.data.crop, f"{weights.source}: crop")
  if text_length is not None:
    config.model.text.positions = max(text_length, config.model.text.positions)
  if config.data.num_frames > MAX_FRAMES:
    raise UserError(f"{weights.source}: num_frames={config.data.num_frames} must be at most {MAX_FRAMES}; use fewer")
  if config.model.temporal == "sequence" and config.data.num_frames > config.model.text.positions:
    raise UserError(
      f"num_frames={config.data.num_frames} exceeds the {config.model.text.positions} positions of"
      " temporal='sequence'; use fewer frames"
    )
  params = _fit_params(weights, config)
  return EmbeddingModel(weights.source, config, params, _load_tokenizer(weights, tokenizer), batch_size)


def _fit_params(weights: sources.Weights, config: ConfigDict) -> dict[str, Any]:
  """Fits the parameters to the model's sizes and replicates them on all devices."""
  if config.data.text_length < 2:
    raise UserError(f"text_length={config.data.text_length} must be at least 2, for the start and the end token")
  load_params.check_finite(weights.params, weights.source)
  shapes = clip_vip.parameter_shapes(config.model)
  params = load_params.fit_to_shapes(weights, load_params.shapes_by_name(shapes))
  model = f"the model of its sizes and temporal={config.model.temporal!r}"
  load_params.check_complete(params, shapes, weights.source, model=model)
  replicated = sharding.replicated(sharding.make_mesh())
  return traverse_util.unflatten_dict(load_params.to_devices(params, dict.fromkeys(params, replicated)), sep="/")


def tokenizer_name(weights: sources.Weights, requested: str | None = None) -> str:
  """Returns the name for `load_tokenizer`: the requested one, or that of the weights; "" if unknown.

  That of the weights is the tokenizer.json next to them, else that of the run, else "clip" if they have its 49,408 ids.
  """
  run = "" if weights.run is None else weights.run.data.get("tokenizer", "")
  trained = "" if run == WORDS else run  # "words" is a file in the workdir
  if name := requested or weights.tokenizer or trained:
    return name
  # An export of a run with its own vocabulary, which may be as large as CLIP's, states that it needs a file.
  is_clip = weights.config.text.vocab_size == CLIP_VOCAB_SIZE and not weights.hints.tokenizer
  return "clip" if is_clip else ""


def _load_tokenizer(weights: sources.Weights, requested: str | None) -> Tokenizer | None:
  """Loads the tokenizer for the vocabulary of the weights; None if it is unknown, which only texts require."""
  name = tokenizer_name(weights, requested)
  if not name:
    return None
  tokenizer = load_recorded_tokenizer(name, weights.tokenizer_digest if name == tokenizer_name(weights) else "")
  vocab_size = weights.config.text.vocab_size
  if tokenizer.vocab_size != vocab_size:
    raise UserError(
      f"tokenizer {name!r} has {tokenizer.vocab_size} tokens, the weights of {weights.source!r} have {vocab_size};"
      " use the tokenizer that the weights were trained with"
    )
  return tokenizer
