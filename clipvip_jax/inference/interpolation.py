"""Interpolation between the weights of two sources, as in WiSE-FT (Wortsman et al., arXiv 2109.01903).

Weights between those of CLIP and those of a run that started from it keep more of CLIP's zero-shot accuracy.
"""

import dataclasses

import numpy as np
from jaxtyping import Float

from clipvip_jax.inference.load_model import tokenizer_name
from clipvip_jax.input_pipeline.clip_tokenizer import has_clip_vocabulary
from clipvip_jax.runs.checkpoint_identity import load_recorded_tokenizer
from clipvip_jax.utils import config_tree
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import list_first, log
from clipvip_jax.weights.sources import Weights

# Fields of config.model that shapes of parameters or features depend on, besides all of "vision" and "text".
_ARCHITECTURE = ("image_size", "patch_size", "embed_dim", "activation")
# Sizes of parameters that one of both may lack.
_OPTIONAL = ("vision.added_proxies", "vision.time_positions")
_CLIP = "clip"
_LISTED = 3  # parameters in a message


def interpolate(first: Weights, second: Weights, alpha: float, *, keep_unshared: bool = False) -> Weights:
  """Computes (1 - alpha) * first + alpha * second of all parameters, in float32.

  The pixels that both expect have CLIP's mean and standard deviation: others are folded into the patch embedding when a
  source is read. With alpha 0 and 1, the values are exactly those of `first` and `second`.

  Args:
    first: complete weights.
    second: complete weights.
    alpha: 0 to 1.
    keep_unshared: whether parameters that only one of both has are taken from it, with its temporal modelling.

  Returns:
    The weights, which otherwise have the properties of `second`; those of `first` if `second` lacks parameters.

  Raises:
    UserError: alpha is out of range, or both differ in architecture, vocabulary, crop, temporal modelling or, without
      `keep_unshared`, parameters.
  """
  if not 0 <= alpha <= 1:
    raise UserError(f"--alpha={alpha} must be at least 0 ({first.source}) and at most 1 ({second.source})")
  base, other = (second, first) if first.params.keys() <= second.params.keys() else (first, second)
  _check_architectures(first, second)
  unshared = [name for name in base.params if name not in other.params]
  if lacking := [name for name in other.params if name not in base.params]:
    raise UserError(
      f"{base.source} lacks {list_first(lacking, _LISTED)}, and {other.source} lacks"
      f" {list_first(unshared, _LISTED)}; interpolate a model and one that was trained from it"
    )
  if unshared and not keep_unshared:
    raise UserError(
      f"{other.source} lacks {list_first(unshared, _LISTED)}; add --keep_unshared to take them from"
      f" {base.source} unchanged, or use weights with the same parameters"
    )
  _check_inputs(base, other, temporal=not unshared)
  params = {name: _mix(first.params[name], second.params[name], alpha) for name in other.params}
  params |= {name: base.params[name] for name in unshared}
  log.info("interpolated %d arrays; %d are those of %s alone", len(other.params), len(unshared), base.source)
  source = f"{first.source} and {second.source} (alpha {alpha})"
  params = {name: params[name] for name in base.params}
  return dataclasses.replace(base, source=source, params=params, step=None)


def _mix(first: Float[np.ndarray, "..."], second: Float[np.ndarray, "..."], alpha: float) -> Float[np.ndarray, "..."]:
  if alpha in (0, 1):
    return second if alpha else first
  return np.asarray(np.float32(1 - alpha) * first + np.float32(alpha) * second)


def _check_architectures(first: Weights, second: Weights) -> None:
  """Raises UserError for another architecture, of which it names the fields."""
  sizes, others = (_architecture(weights) for weights in (first, second))
  differences = [
    f"model.{name}={size} and {others[name]}"
    for name, size in sizes.items()
    if others.get(name) != size and not (name in _OPTIONAL and 0 in (size, others[name]))
  ]
  if differences:
    raise UserError(
      f"{first.source} and {second.source} differ in architecture: {'; '.join(differences)}; use weights of one model"
    )


def _architecture(weights: Weights) -> dict[str, object]:
  fields = dict(config_tree.flatten(weights.config.to_dict()))
  return {name: x for name, x in fields.items() if name in _ARCHITECTURE or name.startswith(("vision.", "text."))}


def _check_inputs(base: Weights, other: Weights, *, temporal: bool) -> None:
  """Raises UserError where the same parameters would embed videos or texts in different ways."""
  if None not in (base.crop, other.crop) and base.crop != other.crop:
    raise UserError(
      f"{other.source} was trained with data.crop={other.crop!r}, {base.source} with {base.crop!r}: their frames"
      " differ; use weights that were trained with the same crop"
    )
  if temporal and base.temporal != other.temporal:
    raise UserError(
      f"{other.source} has model.temporal={other.temporal!r}, {base.source} {base.temporal!r}: they embed videos in"
      " different ways; use weights of one kind"
    )
  vocabularies = [_vocabulary(weights) for weights in (base, other)]
  if "" in vocabularies:
    unknown = (base, other)[vocabularies.index("")].source
    log.warning("the tokenizer of %s is unknown; it must be the one of the other weights", unknown)
  elif vocabularies[0] != vocabularies[1]:
    raise UserError(
      f"{other.source} and {base.source} were trained with different tokenizers: their token embeddings have no common"
      " meaning; use weights with one vocabulary"
    )


def _vocabulary(weights: Weights) -> str:
  """Returns what identifies the vocabulary of weights; "" if it is unknown."""
  name = tokenizer_name(weights)
  if not name or name == _CLIP:
    return name
  tokenizer = load_recorded_tokenizer(name, weights.tokenizer_digest)
  return _CLIP if has_clip_vocabulary(name) else tokenizer.digest
