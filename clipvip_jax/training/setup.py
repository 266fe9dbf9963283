"""Builds a run's components from its configuration: corpora, tokenizer, model, optimizer, mesh."""

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
import optax
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from ml_collections import ConfigDict

from clipvip_jax.distributed import sharding
from clipvip_jax.input_pipeline.batching import ClipBatcher
from clipvip_jax.input_pipeline.corpus import Corpus
from clipvip_jax.input_pipeline.load_tokenizer import load_tokenizer
from clipvip_jax.input_pipeline.open_corpus import open_corpus
from clipvip_jax.input_pipeline.pipeline import RecordSampler, WeightedStream
from clipvip_jax.input_pipeline.tokenizer import Tokenizer
from clipvip_jax.input_pipeline.word_tokenizer import WORDS, WordTokenizer
from clipvip_jax.models import clip_vip
from clipvip_jax.runs import checkpoint_identity
from clipvip_jax.runs import workdir as run_workdir
from clipvip_jax.runs.run_folder import RunFolder
from clipvip_jax.runs.train_state import TrainState
from clipvip_jax.training import duration
from clipvip_jax.training import optimizer as optimizers
from clipvip_jax.training.config_checks import check_run, stream_sections
from clipvip_jax.training.losses import LOSSES, Loss
from clipvip_jax.training.model_sizes import fill_sizes
from clipvip_jax.training.step_profile import parse_steps
from clipvip_jax.training.train_step import state_shapes
from clipvip_jax.utils import config_tree
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.local_paths import expand_user
from clipvip_jax.utils.log import log
from clipvip_jax.weights.model_config import TOKENIZER_FILE
from clipvip_jax.weights.source_paths import is_run, parse_run

_FEW_TEXTS = 0.5  # fraction of records with a text below which a run warns


@dataclasses.dataclass(frozen=True)
class Components:
  """Components of a run, validated and not yet compiled.

  Attributes:
    config: the whole configuration.
    workdir: the run's folder.
    corpus: the corpus of config.data.
    eval_corpus: the corpus of config.evaluate; `corpus` where that section names none.
    corpus_identity: content of corpus.json; a run resumes on the same corpora and vocabulary only.
    tokenizer: texts to ids.
    streams: training batches of config.data, then of each corpus of config.mix.
    total_steps: updates of the complete run.
    extended_from: updates of the run in `workdir` if it is extended, else 0.
    profile_steps: steps to trace, from 1.
    model: both towers.
    loss: the contrastive loss.
    mesh: the devices.
    optimizer: the gradient transformation.
    lr_schedule: update number to learning rate.
    abstract_state: shapes, dtypes and shardings of the training state.
    folder: the run's folder, with its lock and, in a bucket, its uploads.
  """

  config: ConfigDict
  workdir: pathlib.Path
  corpus: Corpus
  eval_corpus: Corpus
  corpus_identity: dict[str, Any]
  tokenizer: Tokenizer
  streams: list[WeightedStream]
  total_steps: int
  extended_from: int
  profile_steps: range
  model: clip_vip.ClipVip
  loss: Loss
  mesh: Mesh
  optimizer: optax.GradientTransformation
  lr_schedule: optax.Schedule
  abstract_state: TrainState
  folder: RunFolder

  @property
  def identity(self) -> checkpoint_identity.RunIdentity:
    """What decides the run's numbers, for its checkpoints."""
    return {"config": config_tree.to_json_dict(self.config), "corpus": self.corpus_identity}


def prepare(config: ConfigDict, workdir: pathlib.Path, folder: RunFolder | None = None) -> Components:
  """Calls `check_config`, then `open_components`."""
  return open_components(check_config(config, workdir), workdir, folder)


def check_config(config: ConfigDict, workdir: pathlib.Path) -> ConfigDict:
  """Returns the validated configuration, with the sizes of its weights if it takes those; opens no corpus.

  Raises:
    UserError: see `fill_sizes` and `check_run`.
  """
  config = fill_sizes(config, workdir)
  check_run(config, workdir)
  return config


def open_components(config: ConfigDict, workdir: pathlib.Path, folder: RunFolder | None = None) -> Components:
  """Opens the corpora and builds the components.

  Writes nothing, except a corpus with `prepare=True` that is not built yet.

  Args:
    config: of `check_config`.
    workdir: the run's folder, which need not exist.
    folder: the open one, whose path is `workdir`; None for a workdir on disk.

  Raises:
    UserError: any input error that would stop the run later.
  """
  corpora = {section: _open_training_corpus(config, section, stream) for section, stream in stream_sections(config)}
  eval_corpus = _open_eval_corpus(config, corpora["data"])
  identity = _corpus_identity(config, corpora, eval_corpus)
  tokenizer = _load_tokenizer(config, corpora, workdir)
  identity["tokenizer"] = tokenizer.digest
  run_workdir.check_corpus(workdir, identity)
  checkpoint_identity.check_checkpoints(workdir, {"config": config_tree.to_json_dict(config), "corpus": identity})
  streams = [
    _create_stream(config, index, stream, corpora[section], tokenizer)
    for index, (section, stream) in enumerate(stream_sections(config))
  ]
  total_steps = duration.total_steps(config.train, streams)
  model = clip_vip.from_config(config.model)
  mesh = sharding.make_mesh(config.mesh)
  optimizer, lr_schedule = optimizers.from_config(config.optimizer, total_steps)
  shapes = state_shapes(config, model, optimizer)
  optimizers.check_names(config.optimizer, shapes.params)
  return Components(
    config=config,
    workdir=workdir,
    corpus=corpora["data"],
    eval_corpus=eval_corpus,
    corpus_identity=identity,
    tokenizer=tokenizer,
    streams=streams,
    total_steps=total_steps,
    extended_from=duration.check_extension(config, workdir, streams),
    profile_steps=parse_steps(config.host.profile_steps, total_steps),
    model=model,
    loss=LOSSES[config.loss],
    mesh=mesh,
    optimizer=optimizer,
    lr_schedule=lr_schedule,
    abstract_state=_with_shardings(shapes, sharding.state_shardings(mesh, shapes)),
    folder=folder or RunFolder(workdir),
  )


def _with_shardings(shapes: TrainState, shardings: TrainState) -> TrainState:
  return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings)


def _open_training_corpus(config: ConfigDict, section: str, stream: ConfigDict) -> Corpus:
  """Opens a section's corpus and checks that its training split has records with the section's text fields."""
  corpus = _open_on_all_processes(_with_data_dir(config, stream), section)
  try:
    num_records = len(corpus.records(stream.train_split))
    corpus.check_fields(stream.train_split, (stream.subtitle, stream.caption))
  except UserError as error:
    raise UserError(f"{section}: {error}") from error
  if not num_records:
    raise UserError(f"{section}: {corpus.name}, split {stream.train_split}, has no records; name another train_split")
  _check_texts(section, stream, config.loss, corpus)
  return corpus


def _check_texts(section: str, stream: ConfigDict, loss: str, corpus: Corpus) -> None:
  """Checks that records have texts that the loss reads, and warns of fields that few of them have."""
  num_records, counts = corpus.count_texts(stream.train_split)
  fields = {f"{section}.{name}": stream[name] for name in _text_names(loss) if stream[name]}
  where = f"{num_records} records of {corpus.name}, split {stream.train_split},"
  if not any(counts[field] for field in fields.values()):
    others = ", ".join(f"{field!r} ({count})" for field, count in counts.items() if count)
    raise UserError(
      f"none of the {where} has a text in {' or '.join(f'{name}={field!r}' for name, field in fields.items())}, which"
      f" loss={loss!r} reads; set --config.{' or --config.'.join(fields)} to a field with texts: {others or 'none'}"
    )
  for name, field in fields.items():
    if counts[field] < _FEW_TEXTS * num_records:
      log.warning("%d of %s have a text in %s=%r; the others do not affect its loss", counts[field], where, name, field)


def _text_names(loss: str) -> list[str]:
  return [name for name in ("subtitle", "caption") if name in LOSSES[loss].uses]


def _open_eval_corpus(config: ConfigDict, corpus: Corpus) -> Corpus:
  """Opens the corpus of config.evaluate, `corpus` by default, and checks the queries of its splits."""
  section = config.evaluate
  eval_corpus = _open_on_all_processes(_with_data_dir(config, section), "evaluate") if section.name else corpus
  for split in dict.fromkeys((section.selection_split, *section.final_splits)):
    eval_corpus.check_queries(split, section.query, config.data.caption, section.protocol)
  return eval_corpus


def _with_data_dir(config: ConfigDict, section: ConfigDict) -> ConfigDict:
  """Returns the section of a corpus, with the data_dir of config.data where it names none, and with its cache."""
  section = section.copy_and_resolve_references()
  with section.unlocked():
    section.data_dir = section.data_dir or config.data.data_dir
    section.cache_dir, section.cache_gb = config.data.cache_dir, config.data.cache_gb
  return section


def _open_on_all_processes(section: ConfigDict, name: str) -> Corpus:
  """Opens a corpus. Process 0 alone builds one that is missing, while the other processes wait."""
  if jax.process_count() == 1:
    return open_corpus(section, name)
  try:
    if jax.process_index() == 0:
      return open_corpus(section, name)
  finally:  # after an error as well: the other processes would deadlock
    multihost_utils.sync_global_devices(f"corpus of {name}")
  section = section.copy_and_resolve_references()
  with section.unlocked():
    section.prepare = False
  return open_corpus(section, name)


def _corpus_identity(config: ConfigDict, corpora: Mapping[str, Corpus], eval_corpus: Corpus) -> dict[str, Any]:
  """Returns the content of corpus.json."""
  identity = corpora["data"].identity()
  if config.mix:
    identity["mix"] = {name: corpora[f"mix.{name}"].identity() for name in config.mix}
  if config.evaluate.name:
    identity["evaluated"] = eval_corpus.identity()
  return identity


def _create_stream(
  config: ConfigDict, index: int, stream: ConfigDict, corpus: Corpus, tokenizer: Tokenizer
) -> WeightedStream:
  """Creates the training batches of one corpus. Stream 0 uses config.seed itself, the others seeds derived from it."""
  seed = config.seed
  if index:
    seed = int(np.random.SeedSequence((config.seed, index)).generate_state(1)[0])
  clips = ClipBatcher(
    records=corpus.records(stream.train_split),
    tokenizer=tokenizer,
    text_fields={name: stream[name] for name in _text_names(config.loss)},
    num_frames=stream.num_frames,
    image_size=config.model.image_size,
    text_length=config.data.text_length,
    jitter_seed=seed,
    middle_frame="frame" in LOSSES[config.loss].uses,
    fast_decode=config.data.fast_decode,
    crop=config.data.crop,
    pixels=config.data.pixels,
  )
  num_records = len(clips.records)
  num_used = max(1, round(stream.fraction * num_records))
  return WeightedStream(
    clips, RecordSampler(num_used, config.train.batch_size, seed, subset_of=num_records), stream.weight
  )


def _load_tokenizer(config: ConfigDict, corpora: Mapping[str, Corpus], workdir: pathlib.Path) -> Tokenizer:
  """Loads CLIP's tokenizer or a tokenizer.json, or builds a vocabulary from the training texts.

  A built vocabulary is saved by `locked_workdir`, and loaded from the workdir when the run resumes. A run that starts
  from another one has the vocabulary of that run, to whose ids its token embedding belongs.
  """
  if config.data.tokenizer != WORDS:
    tokenizer = load_tokenizer(config.data.tokenizer)
  elif vocabulary := _recorded_vocabulary(config, workdir):
    tokenizer = load_tokenizer(vocabulary)
  else:
    tokenizer = WordTokenizer.train(_training_texts(config, corpora), config.model.text.vocab_size)
  if tokenizer.vocab_size != config.model.text.vocab_size:
    raise UserError(
      f"data.tokenizer={config.data.tokenizer!r} has {tokenizer.vocab_size} tokens, but model.text.vocab_size is "
      f"{config.model.text.vocab_size}; set model.text.vocab_size={tokenizer.vocab_size} or name another tokenizer"
    )
  return tokenizer


def _recorded_vocabulary(config: ConfigDict, workdir: pathlib.Path) -> pathlib.Path | None:
  """Returns the vocabulary that this run has built, else that of the run it starts from; None if there is none."""
  path = workdir / TOKENIZER_FILE
  if not path.exists() and (source := expand_user(config.init_from)) and is_run(source):
    path = parse_run(source).folder / TOKENIZER_FILE
  return path if path.exists() else None


def _training_texts(config: ConfigDict, corpora: Mapping[str, Corpus]) -> Iterator[str]:
  for section, stream in stream_sections(config):
    texts = corpora[section].texts(stream.train_split, stream.subtitle, stream.caption)
    yield from texts.queries
    for captions in texts.captions:
      yield from captions
