"""Sizes of `config.model` taken from the weights of `config.init_from`."""

import json
import pathlib

from ml_collections import ConfigDict

from clipvip_jax.configs import variants
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import log
from clipvip_jax.weights.sources import read_weights

_FIELDS = ("image_size", "patch_size", "embed_dim", "activation")
_TOWER_FIELDS = ("width", "layers", "heads", "mlp", "vocab_size", "positions")
_PROXY_FIELDS = ("added_proxies", "time_positions")


def fill_sizes(config: ConfigDict, workdir: pathlib.Path | None = None) -> ConfigDict:
  """Replaces sizes, heads and activation of `config.model` by those of the weights, if `sizes_from_weights` is set.

  Added proxies and the time embedding are those of the weights, or of the configuration if the weights are of a plain
  CLIP. The variant `frozen_lower` freezes half of the blocks of the weights. A run that resumes keeps the sizes that it
  was started with, and needs no weights.

  Args:
    config: the complete configuration.
    workdir: the run's folder, which need not exist; None: no run.

  Returns:
    `config`, or a copy with the sizes of the weights.

  Raises:
    UserError: there is no init_from, or its weights cannot be read.
  """
  if not config.sizes_from_weights:
    return config
  if not config.init_from:
    raise UserError("sizes_from_weights=True needs weights; set --config.init_from=SOURCE, or set the sizes yourself")
  filled = config.copy_and_resolve_references()
  with filled.unlocked():
    if workdir is None or not _fill_recorded(filled.model, workdir):
      _fill(filled.model, read_weights(config.init_from).config)
      log.info("%s: sizes of config.model are those of the weights", config.init_from)
    if tuple(config.optimizer.frozen) == variants.lower_half(config.model):
      filled.optimizer.frozen = variants.lower_half(filled.model)
  return filled


def _fill_recorded(model: ConfigDict, workdir: pathlib.Path) -> bool:
  """Copies the sizes of a run; returns False if it has none that can be read, which `check_config` reports."""
  try:
    recorded = json.loads((workdir / "config.json").read_text(encoding="utf-8"))
    if recorded["sizes_from_weights"]:
      _fill(model, ConfigDict(recorded["model"]))
    return bool(recorded["sizes_from_weights"])
  except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
    return False


def _fill(model: ConfigDict, sizes: ConfigDict) -> None:
  """Copies sizes into `config.model`."""
  model.update({name: sizes[name] for name in _FIELDS})
  for tower in ("vision", "text"):
    model[tower].update({name: sizes[tower][name] for name in _TOWER_FIELDS if name in sizes[tower]})
  model.vision.update({name: sizes.vision[name] for name in _PROXY_FIELDS if sizes.vision[name]})
