"""What a run is made of, checked before anything is compiled or overwritten."""

import dataclasses
import pathlib
from typing import Any

import jax
from jax.experimental import multihost_utils

from clipvip_jax import optimizer, sharding, workdir
from clipvip_jax.errors import UserError
from clipvip_jax.input_pipeline.corpus import Corpus, open_corpus
from clipvip_jax.input_pipeline.pipeline import Order
from clipvip_jax.input_pipeline.tokenizer import JsonTokenizer, Tokenizer, WordTokenizer, load_tokenizer
from clipvip_jax.losses import LOSSES, Loss
from clipvip_jax.models import clip_vip
from clipvip_jax.weights import sources

_LEAST = {
  "seed": 0,
  "data.num_frames": 1,
  "data.text_length": 2,
  "train.epochs": 0,
  "train.num_steps": 0,
  "train.eval_every": 1,
  "train.checkpoint_every": 1,
  "evaluate.num_examples": 0,
  "host.num_workers": 0,
  "host.log_every": 1,
  "host.keep_checkpoints": 1,
}
_FROM_CORPUS = "words"  # data.tokenizer of a vocabulary that is built from the corpus


@dataclasses.dataclass(frozen=True)
class Parts:
  """Everything that a run is made of, checked and not yet compiled."""

  config: Any
  workdir: pathlib.Path
  corpus: Corpus
  tokenizer: Tokenizer
  model: clip_vip.ClipVip
  loss: Loss
  order: Order
  total_steps: int


def check(config: Any, folder: pathlib.Path) -> None:
  """Refuses what cannot work from the configuration alone, before anything is read or written.

  Raises:
    UserError: names the field and what is allowed.
  """
  clip_vip.from_config(config.model)
  optimizer.from_config(config.optimizer, 1)
  if config.loss not in LOSSES:
    raise UserError(f"loss={config.loss!r} is unknown; allowed: {', '.join(LOSSES)}")
  if config.data.text_length > config.model.text.positions:
    raise UserError(
      f"data.text_length={config.data.text_length} is more than model.text.positions={config.model.text.positions}"
    )
  for name, least in _LEAST.items():
    section, _, field = name.rpartition(".")
    value = config[section][field] if section else config[field]
    if value < least:
      raise UserError(f"{name}={value} must be at least {least}")
  if not config.train.epochs and not config.train.num_steps:
    raise UserError("train.epochs and train.num_steps are both 0: set one of them")
  sharding.check_batch_size(config.train.batch_size, "train.batch_size")
  sharding.check_batch_size(config.evaluate.batch_size, "evaluate.batch_size")
  if config.init_from:
    sources.check(config.init_from)
  workdir.check_config(folder, workdir.plain(config))


def prepare(config: Any, folder: pathlib.Path) -> Parts:
  """Checks the configuration and opens the corpus. Writes nothing but a corpus that was to be built.

  Raises:
    UserError: anything that would stop the run later.
  """
  check(config, folder)
  corpus = _open_corpus(config.data)
  corpus.check_fields(config.data.train_split, (config.data.subtitle, config.data.caption))
  num_records = len(corpus.source(config.data.train_split))
  if not num_records:
    raise UserError(f"{corpus.name}, split {config.data.train_split}, holds no records")
  for split in (config.evaluate.during_split, *config.evaluate.final_splits):
    corpus.check_queries(split, config.evaluate.query, config.data.caption)
  workdir.check_corpus(folder, corpus.identity())
  order = Order(num_records, config.train.batch_size, config.seed)
  return Parts(
    config=config,
    workdir=folder,
    corpus=corpus,
    tokenizer=_tokenizer(config, corpus, folder),
    model=clip_vip.from_config(config.model),
    loss=LOSSES[config.loss],
    order=order,
    total_steps=config.train.num_steps or config.train.epochs * order.steps_per_epoch,
  )


def claim(parts: Parts) -> None:
  """Takes the folder for this run, once nothing is left that could refuse it."""
  if jax.process_index() == 0:
    workdir.claim(parts.workdir, workdir.plain(parts.config), parts.corpus.identity())
    if parts.config.data.tokenizer == _FROM_CORPUS and isinstance(parts.tokenizer, JsonTokenizer):
      parts.tokenizer.save(parts.workdir / "tokenizer.json")
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices("folder")


def _open_corpus(config: Any) -> Corpus:
  """The corpus; where it is still to be built, by one process, for which the others wait."""
  if jax.process_count() == 1:
    return open_corpus(config)
  try:
    if jax.process_index() == 0:
      return open_corpus(config)
  finally:  # also where it is refused: the others would wait for ever
    multihost_utils.sync_global_devices("corpus")
  config = config.copy_and_resolve_references()
  config.prepare = False  # what process 0 could not build is not there for the others either
  return open_corpus(config)


def _tokenizer(config: Any, corpus: Corpus, folder: pathlib.Path) -> Tokenizer:
  """CLIP's vocabulary, that of a tokenizer.json, or one built from the training texts, which `claim` keeps."""
  if config.data.tokenizer != _FROM_CORPUS:
    tokenizer = load_tokenizer(config.data.tokenizer)
  elif (path := folder / "tokenizer.json").exists():
    tokenizer = load_tokenizer(str(path))
  else:
    fields = corpus.texts(config.data.train_split, config.data.subtitle, config.data.caption)
    tokenizer = WordTokenizer.train([*fields.queries, *fields.captions], config.model.text.vocab_size)
  if tokenizer.vocab_size != config.model.text.vocab_size:
    raise UserError(
      f"data.tokenizer={config.data.tokenizer!r} has {tokenizer.vocab_size} tokens, "
      f"model.text.vocab_size is {config.model.text.vocab_size}"
    )
  return tokenizer
