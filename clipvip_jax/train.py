"""A run from its configuration to results: checks, the training loop, evaluation and report.

Only this module logs, saves and stops.
"""

import contextlib
import dataclasses
import importlib.metadata
import pathlib
import platform
import signal
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

import clipvip_jax
from clipvip_jax import optimizer, report, sharding, workdir
from clipvip_jax.checkpoint import Checkpoints, abstract
from clipvip_jax.errors import UserError
from clipvip_jax.evaluate import Evaluator
from clipvip_jax.input_pipeline.corpus import Corpus, open_corpus
from clipvip_jax.input_pipeline.pipeline import Clips, Order, batches
from clipvip_jax.input_pipeline.tokenizer import Tokenizer, WordTokenizer, load_tokenizer
from clipvip_jax.log import log
from clipvip_jax.losses import LOSSES, Loss
from clipvip_jax.models import clip_vip
from clipvip_jax.progress import Progress, tensorboard_writer
from clipvip_jax.train_step import TrainState, init_state, make_train_step
from clipvip_jax.weights import initialize

# 128 + SIGTERM: what a launcher reads as "ended from outside", so that it starts the run again.
TERMINATED = 143

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "tensorflow-datasets", "grain", "numpy")


class Terminated(Exception):
  """SIGTERM came; the run was saved and can be continued."""


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
  corpus = open_corpus(config.data)
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


def run(config: Any, folder: pathlib.Path) -> dict[str, Any]:
  """Trains, evaluates and reports; goes on from the newest checkpoint in `folder` where there is one.

  Args:
    config: see `configs/common.py`.
    folder: the run's folder; see `workdir.py` for what it will hold.

  Returns:
    What results.json holds.

  Raises:
    UserError: bad input, or a loss that is not finite.
    Terminated: SIGTERM; the state was saved.
  """
  parts = prepare(config, folder)
  mesh = sharding.make_mesh()
  chain, rate = optimizer.from_config(config.optimizer, parts.total_steps)
  checkpoints = Checkpoints(folder / "checkpoints", config.host.keep_checkpoints)
  evaluator = Evaluator(parts.model, mesh, parts.corpus, parts.tokenizer, config)
  for split in (config.evaluate.during_split, *config.evaluate.final_splits):
    evaluator.check(split)

  state, first_step = _start(parts, chain, mesh, checkpoints)
  replicated = sharding.on_every_device(mesh)
  step = jax.jit(
    make_train_step(parts.model, parts.loss, chain, rate),
    in_shardings=(replicated, sharding.split_over_batch(mesh)),
    out_shardings=replicated,
    donate_argnums=0,
  )
  history = workdir.History(folder / "metrics.jsonl", first_step, write=jax.process_index() == 0)
  loop = Loop(parts, mesh, step, evaluator, checkpoints, history)
  like = abstract(state)
  try:
    state = loop.train(state, first_step)
    return _finish(parts, state, like, evaluator, checkpoints, history)
  finally:
    history.close()
    checkpoints.close()


def _start(parts: Parts, chain: Any, mesh: Any, checkpoints: Checkpoints) -> tuple[TrainState, int]:
  """(state on the mesh, steps done): the newest checkpoint, or the first state."""
  config = parts.config
  replicated = sharding.on_every_device(mesh)

  def first():
    return init_state(parts.model, chain, config.model, config.seed)

  shapes = jax.eval_shape(first)
  like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated), shapes)
  restored = checkpoints.restore_latest(like)
  if restored is not None:
    state, position = restored
    done = position["next_record"] // parts.order.batch_size
    log.info("going on from the checkpoint of step %d in %s", done, parts.workdir)
    return state, done
  state = jax.jit(first, out_shardings=replicated)()
  if config.init_from:
    params = initialize.load(config.init_from, state.params)
    state = state.replace(params=jax.device_put(params, replicated))
    log.info("weights from %s", config.init_from)
  return state, 0


class Loop:
  """The training loop of one run."""

  def __init__(self, parts: Parts, mesh: Any, step: Any, evaluator: Evaluator, checkpoints: Checkpoints, history: Any):
    self._parts, self._mesh, self._step = parts, mesh, step
    self._evaluator, self._checkpoints, self._history = evaluator, checkpoints, history
    self._main = jax.process_index() == 0
    self._writer = tensorboard_writer(parts.workdir, write=self._main)
    self._unchecked: tuple[int, dict[str, Any], np.ndarray] | None = None

  def train(self, state: TrainState, first_step: int) -> TrainState:
    """Every step from `first_step` on.

    Raises:
      UserError: a loss is not finite.
      Terminated: SIGTERM; the state was saved.
    """
    parts = self._parts
    total = parts.total_steps
    progress = Progress(first_step, total, parts.order.batch_size)
    with _sigterm() as asked_to_stop:
      for batch in self._batches(first_step, progress):
        records = batch.pop("record")
        state, metrics = self._step(state, sharding.shard_batch(self._mesh, batch))
        done = first_step = first_step + 1
        self._check_finite()  # of the step before, while this one computes
        self._unchecked = (done, metrics, records)
        progress.step_done(done)
        if done % parts.config.host.log_every == 0 or done == total:
          self._log(done, metrics, progress)
        self._evaluate_and_save(state, done, bool(asked_to_stop), progress)
        if asked_to_stop:
          raise Terminated(f"SIGTERM: saved step {done} of {total} in {parts.workdir}; the same command goes on from it")
    self._writer.flush()
    return state

  def _batches(self, first_step: int, progress: Progress) -> Iterator[dict[str, np.ndarray]]:
    """The run's batches, with the time that each was waited for."""
    parts = self._parts
    config = parts.config
    fields = {"subtitle": config.data.subtitle}
    if "caption" in parts.loss.uses:
      fields["caption"] = config.data.caption
    clips = Clips(
      source=parts.corpus.source(config.data.train_split),
      tokenizer=parts.tokenizer,
      texts=fields,
      num_frames=config.data.num_frames,
      image_size=config.model.image_size,
      text_length=config.data.text_length,
      jitter_seed=config.seed,
      middle_frame="frame" in parts.loss.uses,
    )
    found = batches(
      clips,
      parts.order,
      num_steps=parts.total_steps,
      first_step=first_step,
      num_workers=config.host.num_workers,
      process=(jax.process_index(), jax.process_count()),
    )
    while True:
      started = time.monotonic()
      batch = next(found, None)
      progress.waited(time.monotonic() - started)
      if batch is None:
        return
      yield batch

  def _evaluate_and_save(self, state: TrainState, done: int, stopping: bool, progress: Progress) -> None:
    """What is due after a step. A checkpoint follows every evaluation, so that its score is kept with it."""
    config = self._parts.config.train
    last = done == self._parts.total_steps
    evaluate = last or done % config.eval_every == 0
    if not (evaluate or stopping or done % config.checkpoint_every == 0):
      return
    started = time.monotonic()
    self._check_finite()
    score = self._evaluate(state, done) if evaluate else None
    self._checkpoints.save(state, {"next_record": done * self._parts.order.batch_size}, score)
    progress.paused(time.monotonic() - started)

  def _evaluate(self, state: TrainState, done: int) -> float:
    """Plain text-to-video R@1 on the split that chooses the best checkpoint."""
    split = self._parts.config.evaluate.during_split
    metrics = self._evaluator.split(state.params, split).metrics
    recall = metrics["plain"]["text_to_video"]
    self._history.append({"kind": "eval", "step": done, "split": split, "metrics": metrics})
    scalars = {f"{split}/text_to_video/{name}": value for name, value in recall.items()}
    twins = ""
    if "twins" in metrics:
      scalars[f"{split}/twins"] = metrics["twins"]["accuracy"]
      twins = f" | twins {metrics['twins']['accuracy']:.1%}"
    self._writer.write_scalars(done, scalars)
    log.info(
      "step %d | %s: text-to-video R@1 %.1f%% R@5 %.1f%% R@10 %.1f%% over %d clips%s",
      done,
      split,
      *(100 * recall[name] for name in ("R@1", "R@5", "R@10")),
      metrics["size"],
      twins,
    )
    return recall["R@1"]

  def _log(self, done: int, metrics: dict[str, Any], progress: Progress) -> None:
    values = {name: float(value) for name, value in metrics.items()}
    self._check_finite()
    self._history.append({"kind": "train", "step": done, **values})
    numbers = progress.report(done)
    self._writer.write_scalars(done, {f"train/{name}": value for name, value in (values | numbers).items()})
    log.info(progress.line(done, values["loss"], numbers))

  def _check_finite(self) -> None:
    """Stops at a loss that is no number, naming the records of its batch; no checkpoint holds what came of it."""
    if self._unchecked is None:
      return
    done, metrics, records = self._unchecked
    self._unchecked = None
    loss, norm = float(metrics["loss"]), float(metrics["grad_norm"])
    if np.isfinite(loss) and np.isfinite(norm):
      return
    source = self._parts.corpus.source(self._parts.config.data.train_split)
    names = [source[int(i)]["id"].decode("utf-8") for i in records if i >= 0]
    steps = self._checkpoints.steps()
    kept = f"the newest checkpoint is that of step {steps[-1]}" if steps else "there is no checkpoint yet"
    raise UserError(
      f"step {done}: loss {loss}, gradient norm {norm}; stopped, {kept}. Records of the batch: {', '.join(names)}. "
      "Look at them, or try a smaller optimizer.learning_rate or model.dtype=float32"
    )


@contextlib.contextmanager
def _sigterm() -> Iterator[list[int]]:
  """A list that is empty until SIGTERM comes."""
  received: list[int] = []
  before = signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
  try:
    yield received
  finally:
    signal.signal(signal.SIGTERM, before)


def _finish(
  parts: Parts, state: TrainState, like: TrainState, evaluator: Evaluator, checkpoints: Checkpoints, history: Any
) -> dict[str, Any]:
  """Evaluates the best checkpoint on the final splits and writes results and report."""
  best = checkpoints.best_step()
  last = int(state.step)
  if best is not None and best != last:
    state, _ = checkpoints.restore(best, like)
  config = parts.config
  splits, examples = {}, []
  for split in config.evaluate.final_splits:
    result = evaluator.split(state.params, split)
    splits[split] = result.metrics
    if not examples:
      examples = evaluator.examples(split, result.similarity, config.evaluate.num_examples)
  results = {
    "splits": splits,
    "step": last,
    "best_step": int(state.step),
    "best_by": f"plain text-to-video R@1 on {config.evaluate.during_split}",
    "num_params": sum(x.size for x in jax.tree.leaves(state.params)),
    "corpus": {"name": parts.corpus.name, **parts.corpus.metadata},
    "config": workdir.plain(config),
    "versions": versions(),
  }
  if jax.process_index() == 0:
    workdir.write_json(parts.workdir / "results.json", results)
    report.write_report(parts.workdir / "report.html", results, history.rows, examples)
    log.info("wrote %s and report.html", parts.workdir / "results.json")
  return results


def versions() -> dict[str, str]:
  """What made a result."""
  found = {name: importlib.metadata.version(name) for name in _PACKAGES}
  return {"clipvip_jax": clipvip_jax.__version__, "python": platform.python_version(), **found}
