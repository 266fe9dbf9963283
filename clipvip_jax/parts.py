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
from clipvip_jax.input_pipeline.tokenizer import Tokenizer, WordTokenizer, load_tokenizer
from clipvip_jax.losses import LOSSES, Loss
from clipvip_jax.models import clip_vip
from clipvip_jax.weights import initialize


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
  for section, field in (("train", "epochs"), ("train", "num_steps"), ("host", "num_workers")):
    if config[section][field] < 0:
      raise UserError(f"{section}.{field}={config[section][field]} is negative")
  if not config.train.epochs and not config.train.num_steps:
    raise UserError("train.epochs and train.num_steps are both 0: set one of them")
  for section, field in (
    ("data", "num_frames"),
    ("train", "eval_every"),
    ("train", "checkpoint_every"),
    ("host", "log_every"),
  ):
    if config[section][field] < 1:
      raise UserError(f"{section}.{field}={config[section][field]} must be at least 1")
  sharding.check_batch_size(config.train.batch_size, "train.batch_size")
  sharding.check_batch_size(config.evaluate.batch_size, "evaluate.batch_size")
  if config.init_from:
    initialize.check_source(config.init_from)
  workdir.check_config(folder, workdir.plain(config))


def prepare(config: Any, folder: pathlib.Path) -> Parts:
  """Checks the configuration, opens the corpus, and takes the folder for this run.

  Raises:
    UserError: anything that would stop the run later.
  """
  check(config, folder)
  corpus = _open_corpus(config.data)
  corpus.check_fields(config.data.train_split, (config.data.subtitle, config.data.caption))
  num_records = len(corpus.source(config.data.train_split))
  for split in (config.evaluate.during_split, *config.evaluate.final_splits):
    corpus.check_fields(split, (config.evaluate.query,))
  if not num_records:
    raise UserError(f"{corpus.name}, split {config.data.train_split}, holds no records")

  if jax.process_index() == 0:
    folder.mkdir(parents=True, exist_ok=True)
    workdir.write_json(folder / "config.json", workdir.plain(config))
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


def _open_corpus(config: Any) -> Corpus:
  """The corpus; where it is still to be built, by one process, for which the others wait."""
  if jax.process_index() == 0:
    corpus = open_corpus(config)
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices("corpus")
  return corpus if jax.process_index() == 0 else open_corpus(config)


def _tokenizer(config: Any, corpus: Corpus, folder: pathlib.Path) -> Tokenizer:
  """CLIP's vocabulary, that of a tokenizer.json, or one built from the training texts and kept in the folder."""
  if config.data.tokenizer != "words":
    tokenizer = load_tokenizer(config.data.tokenizer)
  elif (path := folder / "tokenizer.json").exists():
    tokenizer = load_tokenizer(str(path))
  else:
    fields = corpus.texts(config.data.train_split, config.data.subtitle, config.data.caption)
    tokenizer = WordTokenizer.train([*fields.queries, *fields.captions], config.model.text.vocab_size)
    if jax.process_index() == 0:
      tokenizer.save(path)
  if tokenizer.vocab_size != config.model.text.vocab_size:
    raise UserError(
      f"data.tokenizer={config.data.tokenizer!r} has {tokenizer.vocab_size} tokens, "
      f"model.text.vocab_size is {config.model.text.vocab_size}"
    )
  return tokenizer
