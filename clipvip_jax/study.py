"""Runs variants of a recipe side by side, each with several seeds, and compares them.

  python -m clipvip_jax.study --config=configs/replication.py --workdir=DIR [--seeds=3] [--only=ARM ...]

The recipe's STUDY says which variants (arms) each comparison has. An arm's run is DIR/ARM/seed_N, like any other run;
one that is finished is not run again, and one that was stopped goes on. A recipe whose init_from is "arm:NAME" starts
from that arm's run with the same seed. After every run DIR gets study.json, study.md and study.html: mean and standard
deviation over seeds, and curves. Exit codes: 0 done; 2 bad input; 143 ended by SIGTERM after saving.
"""

import dataclasses
import os
import pathlib
import runpy
import sys
import time
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any

from clipvip_jax.reporting import study_page
from clipvip_jax.runs import results, workdir
from clipvip_jax.utils import config_tree
from clipvip_jax.utils.cli import EXIT_TERMINATED, Parser, run_command
from clipvip_jax.utils.errors import Terminated, UserError
from clipvip_jax.utils.log import log
from clipvip_jax.utils.progress import format_duration
from clipvip_jax.utils.recipe_flags import explain_errors

FROM_ARM = "arm:"  # in a recipe's init_from


@dataclasses.dataclass(frozen=True)
class Study:
  """Comparisons of a recipe's variants.

  Attributes:
    get_config: the recipe's.
    groups: title of a comparison -> name -> arm, which is one or several variants joined by commas.
    variants: applied to every arm, after its own.
    folder: where the runs lie.
    data_dir: where corpora stand; "": as the recipe says.
  """

  get_config: Callable[[str], Any]
  groups: Mapping[str, Mapping[str, str]]
  variants: str
  folder: pathlib.Path
  data_dir: str = ""

  def arms(self) -> list[str]:
    """Every arm once, in the order in which comparisons name them."""
    return list(dict.fromkeys(arm for group in self.groups.values() for arm in group.values()))

  def workdir(self, arm: str, seed: int) -> pathlib.Path:
    """The folder of one run."""
    return self.folder / arm.replace(",", "+") / f"seed_{seed}"

  def config(self, arm: str, seed: int) -> Any:
    """The configuration of one run. Raises UserError for an arm that the recipe does not have."""
    config = self._recipe(arm)
    with config.unlocked():
      config.seed = seed
      config.data.data_dir = self.data_dir or config.data.data_dir
      if config.init_from.startswith(FROM_ARM):
        config.init_from = os.fspath(self.workdir(config.init_from.removeprefix(FROM_ARM), seed))
    return config

  def needs(self, arm: str) -> str:
    """The arm that this one starts from; "" for none."""
    source = self._recipe(arm).init_from
    return source.removeprefix(FROM_ARM) if source.startswith(FROM_ARM) else ""

  def _recipe(self, arm: str) -> Any:
    try:
      return self.get_config(",".join(filter(None, (arm, self.variants))))
    except ValueError as error:
      raise UserError(f"arm {arm!r}: {error}") from error

  def plan(self, seeds: int) -> list[tuple[str, int]]:
    """(arm, seed) of every run, in order: all arms of the first seed come first, each after the arm that it needs."""
    order: dict[str, None] = {}
    for arm in self.arms():
      chain = [arm]
      while needed := self.needs(chain[-1]):
        if needed in chain:
          raise UserError(f"arm {needed!r} starts from itself: {' <- '.join(chain)}")
        chain.append(needed)
      order |= dict.fromkeys(reversed(chain))
    return [(arm, seed) for seed in range(seeds) for arm in order]


def open_study(recipe: str, folder: pathlib.Path, data_dir: str = "", only: Sequence[str] = ()) -> Study:
  """The study of a recipe, `FILE.py` or `FILE.py:VARIANTS`.

  Args:
    recipe: it has get_config and STUDY.
    folder: of its runs.
    data_dir: where corpora stand; "": as the recipe says.
    only: arms to run and compare; (): all.

  Raises:
    UserError: no such recipe, it has no STUDY, or no such arm.
  """
  name, _, variants = recipe.partition(":")
  if not pathlib.Path(name).is_file():
    raise UserError(f"--config={recipe}: there is no file {name!r}")
  module = explain_errors([f"--config={recipe}"], lambda: runpy.run_path(name))
  if "STUDY" not in module or "get_config" not in module:
    raise UserError(f"--config={recipe}: the recipe has no STUDY, which says what to compare; replication.py has one")
  groups = module["STUDY"]
  known = dict.fromkeys(arm for group in groups.values() for arm in group.values())
  for arm in only:
    if arm not in known:
      raise UserError(f"--only={arm}: no such arm; there are: {' '.join(known)}")
  if only:
    groups = _chosen(groups, only)
  return Study(module["get_config"], groups, variants, folder, data_dir)


def _chosen(groups: Mapping[str, Mapping[str, str]], arms: Container[str]) -> dict[str, dict[str, str]]:
  """The groups with those arms alone, without groups that have none of them."""
  kept = {title: {name: arm for name, arm in group.items() if arm in arms} for title, group in groups.items()}
  return {title: group for title, group in kept.items() if group}


def carry_out(study: Study, seeds: int) -> dict[str, Any]:
  """Every run that is not finished, and after each the comparison of those that are.

  Raises:
    UserError: a run cannot be made; Terminated: SIGTERM, after saving.
  """
  from clipvip_jax.training import trainer

  plan = study.plan(seeds)
  todo = [one for one in plan if finished(study, *one) is None]  # and what is wrong is refused before any run
  started = time.monotonic()
  for done, (arm, seed) in enumerate(todo):
    left = f" | {format_duration((time.monotonic() - started) / done * (len(todo) - done))} left" if done else ""
    log.info("run %d/%d: %s, seed %d%s", len(plan) - len(todo) + done + 1, len(plan), arm, seed, left)
    trainer.train(study.config(arm, seed), study.workdir(arm, seed))
    write(study, seeds)
  return write(study, seeds)


def finished(study: Study, arm: str, seed: int) -> results.RunResults | None:
  """What a run has left, where it has ended.

  Raises:
    UserError: the folder holds a run of another configuration, or one that cannot be read.
  """
  folder = study.workdir(arm, seed)
  workdir.check_config(folder, config_tree.to_json_dict(study.config(arm, seed)))
  return results.read_results(folder) if (folder / "results.json").is_file() else None


def write(study: Study, seeds: int) -> dict[str, Any]:
  """Compares what is finished: study.json, study.md and study.html in the study's folder.

  Returns:
    {"groups": {title: {name: arm}}, "arms": {arm: {"seeds", "splits", "curves": {seed: points}}}}; the numbers of
    "splits" are means and deviations over the seeds.
  """
  arms = {}
  for arm in study.arms():
    runs = {seed: found for seed in range(seeds) if (found := finished(study, arm, seed))}
    if runs:
      arms[arm] = study_page.arm(runs)
  comparison = {"groups": _chosen(study.groups, arms), "arms": arms}
  study.folder.mkdir(parents=True, exist_ok=True)
  config_tree.write_json(study.folder / "study.json", comparison)
  study_page.write(study.folder, comparison)
  return comparison


def main(argv: Sequence[str] | None = None) -> None:
  """Reads options, runs, compares."""
  parser = Parser(__doc__)
  parser.add_argument(
    "--config", required=True, help="a recipe with a STUDY, with variants for all arms behind a colon"
  )
  parser.add_argument("--workdir", required=True, type=pathlib.Path, help="folder of the study")
  parser.add_argument("--data_dir", default="", help="where corpora stand")
  parser.add_argument("--seeds", type=int, default=3, help="runs of each arm (default 3)")
  parser.add_argument("--only", nargs="+", default=(), metavar="ARM", help="arms to run and compare (default: all)")
  options = parser.parse_args(argv)
  if options.seeds < 1:
    raise UserError(f"--seeds={options.seeds} must be at least 1")
  study = open_study(options.config, options.workdir.resolve(), options.data_dir, options.only)
  study.plan(1)  # an arm that the recipe does not have is refused before JAX is there

  import jax

  if not jax.config.values["jax_compilation_cache_dir"]:  # seeds of an arm compile once
    jax.config.update("jax_compilation_cache_dir", os.fspath(study.folder / "compiled"))
  try:
    comparison = carry_out(study, options.seeds)
  except Terminated as stop:
    log.info("%s", stop)
    sys.exit(EXIT_TERMINATED)
  print(study_page.markdown(comparison))
  log.info("wrote %s, study.md and study.html", study.folder / "study.json")


if __name__ == "__main__":
  run_command(main)
