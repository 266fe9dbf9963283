"""What a run is made of, checked before anything is compiled or overwritten."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from clipvip_jax.distributed import coordination, sharding
from clipvip_jax.input_pipeline.batching import ClipBatcher
from clipvip_jax.input_pipeline.corpus import Corpus, open_corpus
from clipvip_jax.input_pipeline.mixture import steps_until
from clipvip_jax.input_pipeline.pipeline import RecordSampler, WeightedStream
from clipvip_jax.input_pipeline.tokenizer import JsonTokenizer, Tokenizer, WordTokenizer, load_tokenizer
from clipvip_jax.models import attention, clip_vip
from clipvip_jax.runs import workdir, workdir_lock
from clipvip_jax.training import launch_consistency, optimizer
from clipvip_jax.training.losses import LOSSES, Loss
from clipvip_jax.utils import config_tree
from clipvip_jax.utils.errors import UserError
from clipvip_jax.weights import sources

_LEAST = {
  "seed": 0,
  "data.text_length": 2,
  "train.epochs": 0,
  "train.num_steps": 0,
  "train.eval_every": 1,
  "train.checkpoint_every": 1,
  "train.num_microbatches": 1,
  "evaluate.num_examples": 0,
  "host.num_workers": 0,
  "host.log_every": 1,
  "host.keep_checkpoints": 1,
  "host.watchdog_timeout": 0,
}
_FROM_CORPUS = "words"  # data.tokenizer of a vocabulary that is built from the corpus


@dataclasses.dataclass(frozen=True)
class Components:
  """Everything that a run is made of, checked and not yet compiled.

  `corpus` is that of config.data, and `evaluated` is, too, where config.evaluate names no other; `sources` are what is
  trained on, config.data first. `identity` is what corpus.json holds.
  """

  config: Any
  workdir: pathlib.Path
  corpus: Corpus
  evaluated: Corpus
  identity: dict[str, Any]
  tokenizer: Tokenizer
  model: clip_vip.ClipVip
  loss: Loss
  sources: list[WeightedStream]
  total_steps: int


def check(config: Any, folder: pathlib.Path) -> None:
  """Refuses what cannot work from the configuration alone, before anything is read or written.

  Raises:
    UserError: names the field and what is allowed.
  """
  check_recipe(config, jax.device_count())
  attention.resolve_implementation(config.model.get("attention", "auto"), jnp.dtype(config.model.dtype))
  if config.init_from:
    sources.check_source(config.init_from)
  workdir.check_config(folder, config_tree.to_json_dict(config))


def check_recipe(config: Any, devices: int) -> None:
  """The part of `check` that needs no file: what cannot work on so many devices.

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
  if config.model.temporal == "sequence" and config.data.num_frames > config.model.text.positions:
    raise UserError(
      f"data.num_frames={config.data.num_frames} is more than model.text.positions={config.model.text.positions}, which"
      " model.temporal='sequence' takes over"
    )
  for name, least in _LEAST.items():
    section, _, field = name.rpartition(".")
    value = config[section][field] if section else config[field]
    if value < least:
      raise UserError(f"{name}={value} must be at least {least}")
  for section, source in _sections(config):
    _check_source(section, source, config.loss)
  _check_train(config)
  _check_mesh(config, sharding.mesh_shape(config.mesh, devices))


def _check_train(config: Any) -> None:
  """Raises UserError for a length of the run that is none."""
  if not config.train.epochs and not config.train.num_steps:
    raise UserError("train.epochs and train.num_steps are both 0: set one of them")
  if not 0 <= config.train.unmasked_fraction <= 1:
    raise UserError(
      f"train.unmasked_fraction={config.train.unmasked_fraction} must be at least 0 and at most 1, which is all steps"
    )


def _check_mesh(config: Any, shape: Mapping[str, int]) -> None:
  """Raises UserError for batches or towers that the mesh cannot share evenly."""
  sharding.check_batch_size(config.train.batch_size, "train.batch_size", shape)
  sharding.check_batch_size(config.evaluate.batch_size, "evaluate.batch_size", shape)
  share = config.train.batch_size // (shape[sharding.DATA] * shape[sharding.FSDP])
  if share % config.train.num_microbatches:
    raise UserError(
      f"train.num_microbatches={config.train.num_microbatches} does not divide the {share} clips that a device has of"
      f" train.batch_size={config.train.batch_size}"
    )
  for tower in ("vision", "text"):
    if config.model[tower].heads % shape[sharding.TENSOR]:
      raise UserError(
        f"mesh.tensor={shape[sharding.TENSOR]} does not divide model.{tower}.heads={config.model[tower].heads}"
      )


def _sections(config: Any) -> Iterator[tuple[str, Any]]:
  """(path in the configuration, section) of every source of training clips, that of config.data first."""
  yield "data", config.data
  for name, section in config.mix.items():
    yield f"mix.{name}", section


def _check_source(section: str, source: Any, loss: str) -> None:
  """Raises UserError for a source that gives the loss nothing, by the configuration alone."""
  if source.num_frames < 1:
    raise UserError(f"{section}.num_frames={source.num_frames} must be at least 1")
  if not 0 < source.fraction <= 1:
    raise UserError(f"{section}.fraction={source.fraction} must be above 0 and at most 1, which is all")
  if not 0 < source.weight < float("inf"):
    raise UserError(f"{section}.weight={source.weight} must be a number above 0; leave out a source that is not wanted")
  read = {"subtitle", "caption"} & LOSSES[loss].uses
  if not any(source[text] for text in read):
    fields = " or ".join(f"{section}.{text}" for text in sorted(read))
    raise UserError(f"{section} has no text that loss={loss!r} reads: name a field of the records in {fields}")


def prepare(config: Any, folder: pathlib.Path) -> Components:
  """Checks the configuration and opens the corpora. Writes nothing but a corpus that was to be built.

  Raises:
    UserError: anything that would stop the run later.
  """
  check(config, folder)
  corpora = {section: _open_source(config, section, source) for section, source in _sections(config)}
  corpus = corpora["data"]
  evaluated = _open_corpus(_in_folder(config, config.evaluate), "evaluate") if config.evaluate.name else corpus
  for split in (config.evaluate.selection_split, *config.evaluate.final_splits):
    evaluated.check_queries(split, config.evaluate.query, config.data.caption, config.evaluate.protocol)
  identity = corpus.identity()
  if config.mix:
    identity["mix"] = {name: corpora[f"mix.{name}"].identity() for name in config.mix}
  if config.evaluate.name:
    identity["evaluated"] = evaluated.identity()
  workdir.check_corpus(folder, identity)
  tokenizer = _tokenizer(config, corpora, folder)
  sources = [
    _source(config, number, source, corpora[section], tokenizer)
    for number, (section, source) in enumerate(_sections(config))
  ]
  main_batches = config.train.epochs * sources[0].order.steps_per_epoch
  return Components(
    config=config,
    workdir=folder,
    corpus=corpus,
    evaluated=evaluated,
    identity=identity,
    tokenizer=tokenizer,
    model=clip_vip.from_config(config.model),
    loss=LOSSES[config.loss],
    sources=sources,
    total_steps=config.train.num_steps or steps_until([source.weight for source in sources], 0, main_batches),
  )


def _in_folder(config: Any, source: Any) -> Any:
  """A section that names a corpus; where it names no folder, it lies in that of config.data."""
  if source.data_dir:
    return source
  source = source.copy_and_resolve_references()
  with source.unlocked():
    source.data_dir = config.data.data_dir
  return source


def _open_source(config: Any, section: str, source: Any) -> Corpus:
  """The corpus of a section, whose training split has records with the fields that the section names."""
  corpus = _open_corpus(_in_folder(config, source), section)
  try:
    num_records = len(corpus.source(source.train_split))
    corpus.check_fields(source.train_split, (source.subtitle, source.caption))
  except UserError as error:
    raise UserError(f"{section}: {error}") from error
  if not num_records:
    raise UserError(f"{section}: {corpus.name}, split {source.train_split}, holds no records")
  return corpus


def _source(config: Any, number: int, source: Any, corpus: Corpus, tokenizer: Tokenizer) -> WeightedStream:
  """What training reads of a corpus. Source 0, the main one, draws by the seed itself, others by one of their own."""
  seed = config.seed
  if number:
    seed = int(np.random.SeedSequence((config.seed, number)).generate_state(1)[0])
  uses = LOSSES[config.loss].uses
  clips = ClipBatcher(
    source=corpus.source(source.train_split),
    tokenizer=tokenizer,
    texts={name: source[name] for name in ("subtitle", "caption") if name in uses},
    num_frames=source.num_frames,
    image_size=config.model.image_size,
    text_length=config.data.text_length,
    jitter_seed=seed,
    middle_frame="frame" in uses,
    fast_decode=config.data.fast_decode,
  )
  there = len(clips.source)
  order = RecordSampler(max(1, round(source.fraction * there)), config.train.batch_size, seed, subset_of=there)
  return WeightedStream(clips, order, source.weight)


@contextlib.contextmanager
def lock_for_run(parts: Components) -> Iterator[None]:
  """Holds the folder for this run, once nothing is left that could refuse it. All processes enter, or none.

  Raises:
    UserError: another run holds the folder, it cannot be written, or the processes do not see the same one.
  """
  with contextlib.ExitStack() as stack:
    problem = ""
    if jax.process_index() == 0:
      try:
        _take(parts, stack)
      except UserError as error:
        problem = str(error)
    coordination.raise_on_all_processes(problem)
    launch_consistency.check_shared(parts.workdir, workdir_lock.NAME)
    yield


def _take(parts: Components, stack: contextlib.ExitStack) -> None:
  """Locks the folder as long as `stack` is open, and notes whose it is."""
  with workdir.explain_write_errors(parts.workdir):
    parts.workdir.mkdir(parents=True, exist_ok=True)
    stack.enter_context(workdir_lock.workdir_lock(parts.workdir))
  config = config_tree.to_json_dict(parts.config)
  workdir.check_config(parts.workdir, config)  # once more: another run may have come and gone
  workdir.check_corpus(parts.workdir, parts.identity)
  workdir.claim(parts.workdir, config, parts.identity)
  if parts.config.data.tokenizer == _FROM_CORPUS and isinstance(parts.tokenizer, JsonTokenizer):
    with workdir.explain_write_errors(parts.workdir):
      parts.tokenizer.save(parts.workdir / "tokenizer.json")


def _open_corpus(config: Any, section: str) -> Corpus:
  """The corpus; where it is still to be built, by one process, for which the others wait."""
  if jax.process_count() == 1:
    return open_corpus(config, section)
  try:
    if jax.process_index() == 0:
      return open_corpus(config, section)
  finally:  # also where it is refused: the others would wait for ever
    multihost_utils.sync_global_devices(f"corpus of {section}")
  config = config.copy_and_resolve_references()
  with config.unlocked():
    config.prepare = False  # what process 0 could not build is not there for the others either
  return open_corpus(config, section)


def _tokenizer(config: Any, corpora: dict[str, Corpus], folder: pathlib.Path) -> Tokenizer:
  """CLIP's vocabulary, that of a tokenizer.json, or one built from the training texts, which `lock_for_run` keeps."""
  if config.data.tokenizer != _FROM_CORPUS:
    tokenizer = load_tokenizer(config.data.tokenizer)
  elif (path := folder / "tokenizer.json").exists():
    tokenizer = load_tokenizer(str(path))
  else:
    tokenizer = WordTokenizer.train(_training_texts(config, corpora), config.model.text.vocab_size)
  if tokenizer.vocab_size != config.model.text.vocab_size:
    raise UserError(
      f"data.tokenizer={config.data.tokenizer!r} has {tokenizer.vocab_size} tokens, "
      f"model.text.vocab_size is {config.model.text.vocab_size}"
    )
  return tokenizer


def _training_texts(config: Any, corpora: dict[str, Corpus]) -> Iterator[str]:
  for section, source in _sections(config):
    found = corpora[section].texts(source.train_split, source.subtitle, source.caption)
    yield from found.queries
    for captions in found.captions:
      yield from captions
