"""Configuration of an evaluation.

Fields that the command line leaves out come, in this order, from the run that the weights are from, if it was trained
or evaluated on the corpus; from the recipe of the corpus in configs/; and from `clipvip_jax.configs.common`.
"""

import dataclasses
from typing import Any

from ml_collections import ConfigDict

from clipvip_jax.configs import activitynet, common, didemo, lsmdc, msrvtt, msvd, vatex, youcook2
from clipvip_jax.inference import load_model
from clipvip_jax.utils.errors import UserError, first_line
from clipvip_jax.weights import sources

RECIPES = {
  "msrvtt": msrvtt,
  "didemo": didemo,
  "lsmdc": lsmdc,
  "activitynet_captions": activitynet,
  "msvd": msvd,
  "vatex": vatex,
  "youcook2": youcook2,
}
# The fields that an evaluation reads.
_FIELDS = {
  "data": (
    *("name", "config", "data_dir", "cache_dir", "cache_gb"),
    *("num_frames", "text_length", "tokenizer", "caption", "crop", "pixels", "fast_decode"),
  ),
  "evaluate": ("final_splits", "query", "protocol", "batch_size", "num_examples"),
  "host": ("num_workers",),
}


@dataclasses.dataclass(frozen=True)
class EvaluationOptions:
  """Command-line options of an evaluation; None and empty strings are unset."""

  dataset: str
  data_dir: str = ""
  split: str | None = None
  num_frames: int | None = None
  text_length: int | None = None
  query: str | None = None
  batch_size: int | None = None
  dtype: str | None = None
  protocol: str | None = None
  num_workers: int | None = None
  temporal: str | None = None
  tokenizer: str | None = None
  crop: str | None = None
  pixels: str | None = None
  cache_dir: str | None = None
  cache_gb: float | None = None


def evaluation_config(weights: sources.Weights, options: EvaluationOptions) -> ConfigDict:
  """Returns the sections model (dtype alone), data, evaluate and host of an evaluation.

  Raises:
    UserError: the config.json of a run does not fit this version.
  """
  corpus, _, corpus_config = options.dataset.partition("/")
  base, is_of_run = _base_config(weights, corpus, corpus_config)
  config = ConfigDict({section: {field: base[section][field] for field in _FIELDS[section]} for section in _FIELDS})
  config.model = {"dtype": base.model.dtype}
  config.data.name = corpus
  config.data.config = corpus_config or config.data.config
  config.data.data_dir = options.data_dir or config.data.data_dir
  config.data.tokenizer = load_model.tokenizer_name(weights, options.tokenizer)
  config.data.crop = options.crop or weights.crop or "squash"
  if not is_of_run:
    config.data.text_length = min(config.data.text_length, weights.config.text.positions)
  overrides: dict[str, dict[str, Any]] = {
    "model": {"dtype": options.dtype},
    "data": {name: getattr(options, name) for name in ("num_frames", "text_length", "pixels", "cache_dir", "cache_gb")},
    "evaluate": {"query": options.query, "batch_size": options.batch_size, "protocol": options.protocol},
    "host": {"num_workers": options.num_workers},
  }
  for section, fields in overrides.items():
    config[section].update({field: value for field, value in fields.items() if value is not None})
  if options.split:
    config.evaluate.final_splits = (options.split,)
  return config


def _base_config(weights: sources.Weights, corpus: str, corpus_config: str) -> tuple[ConfigDict, bool]:
  """Returns the configuration for unset options, and whether it is that of a run on this corpus."""
  run = None if weights.run is None else _with_new_fields(weights.run, weights.source)
  recipe = RECIPES.get(corpus)
  # The protocol of a configuration, as `full` or `full-fps_3`, may differ from that of the corpus' first one.
  protocol = f"{corpus_config.partition('-')[0]}_protocol"
  variants = [protocol] if recipe and protocol in recipe.VARIANTS else []
  if run is not None and corpus in (run.data.name, run.evaluate.get("name", "")):
    if corpus != run.data.name:
      data_dir = run.evaluate.data_dir or run.data.data_dir
      run.data.update({"config": run.evaluate.config, "data_dir": data_dir})
    if recipe and variants and corpus_config != run.data.config:
      run.evaluate.protocol = recipe.get_config(protocol).evaluate.protocol
    return run, True
  if recipe:
    config = recipe.get_config(",".join(["b16" if weights.config.patch_size == 16 else "b32", *variants]))
    config.unlock()
    return config, False
  config = common.base()
  config.data.caption = ""  # missing captions are counted only where a recipe names the field
  trained = {"num_frames": weights.num_frames, "text_length": weights.text_length}
  config.data.update({name: value for name, value in trained.items() if value is not None})
  return config, False


def _with_new_fields(run: ConfigDict, source: str) -> ConfigDict:
  """Returns a run's configuration with defaults for fields that did not exist when it ran."""
  config = common.base()
  try:
    config.update(run.to_dict())
  except (TypeError, ValueError, AttributeError) as error:
    raise UserError(
      f"{source}: its config.json is not a configuration of this program ({first_line(error)});"
      " restore the file that the run wrote"
    ) from error
  return config
