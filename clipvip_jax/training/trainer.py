"""A run from its configuration to results and report; goes on where one stopped."""

import contextlib
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
from flax import traverse_util
from jax.experimental.compilation_cache import compilation_cache

from clipvip_jax.distributed import sharding
from clipvip_jax.distributed.watchdog import Watchdog, report_progress
from clipvip_jax.evaluation.evaluator import Evaluator
from clipvip_jax.reporting import query_examples, report
from clipvip_jax.runs import metrics_history
from clipvip_jax.runs.checkpoint import Checkpoints, abstract_state
from clipvip_jax.runs.train_state import TrainState
from clipvip_jax.training import launch_consistency, optimizer
from clipvip_jax.training.loop import Loop
from clipvip_jax.training.setup import Components, lock_for_run, prepare
from clipvip_jax.training.train_step import init_state, jit_train_step
from clipvip_jax.utils import atomic_write, config_tree
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import log
from clipvip_jax.utils.versions import versions
from clipvip_jax.weights import load_params


def train(config: Any, folder: pathlib.Path) -> dict[str, Any]:
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
  launch_consistency.check(config, versions())
  parts = prepare(config, folder)
  mesh = sharding.make_mesh(config.mesh)
  chain, rate = optimizer.from_config(config.optimizer, parts.total_steps)
  shapes = jax.eval_shape(lambda: _first_state(parts, chain))
  optimizer.check_names(config.optimizer, shapes.params)
  weights = load_params.load_params(config.init_from, shapes.params) if config.init_from else {}
  with lock_for_run(parts), Watchdog(folder, config.host.watchdog_timeout):
    return _run(parts, mesh, chain, rate, shapes, weights)


def _run(parts: Components, mesh: Any, chain: Any, rate: Any, shapes: TrainState, weights: Any) -> dict[str, Any]:
  """The run in a folder that is held for it."""
  config, folder = parts.config, parts.workdir
  _keep_compiled(folder, config.host.compilation_cache)
  checkpoints = Checkpoints(folder / "checkpoints", config.host.keep_checkpoints)
  evaluator = Evaluator(parts.model, mesh, parts.evaluated, parts.tokenizer, config)
  state, first_step = _start(parts, chain, mesh, checkpoints, shapes, weights)
  step = _step_of_its_time(parts, chain, rate, mesh, shapes)
  history = metrics_history.History(folder / "metrics.jsonl", first_step, write=jax.process_index() == 0)
  loop = Loop(parts, mesh, step, evaluator, checkpoints, history)
  like = abstract_state(state)
  with _full_disk(folder, checkpoints), contextlib.closing(checkpoints), contextlib.closing(history):
    state = loop.train(state, first_step)
    return _finish(parts, mesh, state, like, evaluator, checkpoints, history)


@contextlib.contextmanager
def _full_disk(folder: pathlib.Path, checkpoints: Checkpoints) -> Iterator[None]:
  """A block that writes to the folder; where that is refused, the error says what is left.

  Raises:
    UserError: names the folder, the reason and the newest checkpoint.
  """
  try:
    yield
  except Exception as error:
    if not (reason := atomic_write.disk_error_reason(error)):
      raise
    step = checkpoints.newest_on_disk()
    kept = "there is no checkpoint yet" if step is None else f"the newest checkpoint is that of step {step}"
    raise UserError(
      f"{folder} cannot be written ({reason}); stopped, {kept}. Make room, and the same command goes on there"
    ) from error


def _step_of_its_time(parts: Components, chain: Any, rate: Any, mesh: Any, shapes: TrainState) -> Callable[[int], Any]:
  """Updates done -> the jitted step that comes next: the last ones of patch dropout see whole clips."""
  config = parts.config
  step, whole = (
    jit_train_step(config, parts.model, parts.loss, chain, rate, mesh, shapes, whole_clips=whole)
    for whole in (False, True)
  )
  first_whole = parts.total_steps - round(config.train.unmasked_fraction * parts.total_steps)
  return lambda done: whole if config.model.patch_dropout and done >= first_whole else step


def _keep_compiled(folder: pathlib.Path, cache: str) -> None:
  """Keeps what is compiled, so that a run that goes on compiles nothing again; JAX's own setting comes first."""
  if cache and not jax.config.values["jax_compilation_cache_dir"]:
    jax.config.update("jax_compilation_cache_dir", str(folder / cache))
    compilation_cache.reset_cache()  # JAX looks once whether there is one


def _first_state(parts: Components, chain: Any) -> TrainState:
  return init_state(parts.model, chain, parts.config.model, parts.config.seed)


def _start(
  parts: Components, chain: Any, mesh: Any, checkpoints: Checkpoints, shapes: TrainState, weights: Any
) -> tuple[TrainState, int]:
  """(state on the mesh, steps done): the newest checkpoint, or the first state, with `weights` where there are any."""
  placed = sharding.state_shardings(mesh, shapes)
  like = jax.tree.map(lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), shapes, placed)
  restored = checkpoints.restore_latest(like)
  if restored is not None:
    state, position = restored
    done = position["next_record"] // parts.config.train.batch_size
    log.info("going on from the checkpoint of step %d in %s", done, parts.workdir)
    return state, done

  def first(weights):
    state = _first_state(parts, chain)
    return state.replace(params=load_params.merge(weights, state.params))

  # Donated, and what they replace is never computed: no device holds the parameters twice.
  where = traverse_util.flatten_dict(placed.params, sep="/")
  on_devices = load_params.to_devices(weights, {name: where[name] for name in weights})
  state = jax.jit(first, out_shardings=placed, donate_argnums=0)(on_devices)
  if weights:
    log.info("weights from %s", parts.config.init_from)
  return state, 0


def _finish(
  parts: Components, mesh: Any, state: Any, like: Any, evaluator: Evaluator, checkpoints: Checkpoints, history: Any
) -> dict[str, Any]:
  """Evaluates the best checkpoint on the final splits and writes results and report."""
  last = int(state.step)
  if checkpoints.best_step() not in (None, last):
    state = checkpoints.restore_best(like) or state
  config = parts.config
  found = {split: evaluator.split(state.params, split) for split in config.evaluate.final_splits}
  results = {
    "splits": {split: result.metrics for split, result in found.items()},
    "step": last,
    "best_step": int(state.step),
    "best_by": f"plain text-to-video R@1 on {config.evaluate.selection_split}",
    "num_params": sum(x.size for x in jax.tree.leaves(state.params)),
    "corpus": {"name": parts.corpus.name, **parts.corpus.metadata, "mix": parts.identity.get("mix", {})},
    "evaluated": {"name": parts.evaluated.name, **parts.evaluated.metadata},
    "config": config_tree.to_json_dict(config),
    "versions": versions(),
  }
  report_progress("writing results and report")
  params = sharding.replicate(mesh, state.params)  # for process 0, which looks at examples alone
  if jax.process_index() == 0:
    config_tree.write_json(parts.workdir / "results.json", results)
    first = next(iter(found.values()), None)
    shown = query_examples.report_examples(parts.model, params, parts.evaluated, first, config) if first else {}
    report.write_report(parts.workdir / "report.html", results, history.rows, **shown)
    log.info("wrote %s and report.html", parts.workdir / "results.json")
  return results
