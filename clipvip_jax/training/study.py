"""Studies: variants of a recipe (arms), trained side by side with several seeds and compared."""

import dataclasses
import os
import pathlib
import runpy
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from clipvip_jax.reporting import study_page
from clipvip_jax.runs import results
from clipvip_jax.runs import workdir as run_workdir
from clipvip_jax.runs.fetch_run import fetch_files, has_checkpoints
from clipvip_jax.training.model_sizes import fill_sizes
from clipvip_jax.utils import config_tree
from clipvip_jax.utils.bucket_copies import errors_by_address, uploaded_folder
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import log
from clipvip_jax.utils.progress import ProgressReporter
from clipvip_jax.utils.recipe_flags import explain_errors
from clipvip_jax.utils.recipes import find_recipe

_ARM_PREFIX = "arm:"  # of init_from

Groups = Mapping[str, Mapping[str, str]]


@dataclasses.dataclass(frozen=True)
class Study:
  """Comparisons of a recipe's variants.

  Attributes:
    get_config: the recipe's.
    groups: comparison title -> row name -> arm; an arm is one variant or several, separated by commas.
    variants: applied to every arm, after its own.
    folder: of the runs and the results, local or in a bucket.
    data_dir: dataset directory; "": the recipe's.
  """

  get_config: Callable[[str], ConfigDict]
  groups: Groups
  variants: str
  folder: pathlib.PurePath
  data_dir: str = ""

  def arms(self) -> list[str]:
    """Returns every arm once, in the order of the comparisons."""
    return list(dict.fromkeys(arm for group in self.groups.values() for arm in group.values()))

  def workdir(self, arm: str, seed: int) -> pathlib.PurePath:
    """Returns the workdir of one run."""
    return self.folder / arm.replace(",", "+") / f"seed_{seed}"

  def config(self, arm: str, seed: int) -> ConfigDict:
    """Returns the configuration of one run.

    Raises:
      UserError: the recipe does not have the arm's variants.
    """
    config = self._recipe(arm)
    with config.unlocked():
      config.seed = seed
      config.data.data_dir = self.data_dir or config.data.data_dir
      if initial_arm := self.initial_arm(arm):
        config.init_from = os.fspath(self.workdir(initial_arm, seed))
    return config

  def initial_arm(self, arm: str) -> str:
    """Returns the arm whose run initializes this one (`init_from="arm:NAME"`); "" for none."""
    init_from = self._recipe(arm).init_from
    return init_from.removeprefix(_ARM_PREFIX) if init_from.startswith(_ARM_PREFIX) else ""

  def _recipe(self, arm: str) -> ConfigDict:
    try:
      return self.get_config(",".join(filter(None, (arm, self.variants))))
    except ValueError as error:
      raise UserError(f"arm {arm!r}: {error}") from error

  def plan(self, num_seeds: int) -> list[tuple[str, int]]:
    """Returns (arm, seed) of every run in order: seed by seed, each arm after the arm that initializes it.

    Raises:
      UserError: an arm that the recipe does not have, or that initializes itself.
    """
    arms: dict[str, None] = {}
    for arm in self.arms():
      dependencies = [arm]
      while initial_arm := self.initial_arm(dependencies[-1]):
        if initial_arm in dependencies:
          cycle = " <- ".join([*dependencies, initial_arm])
          raise UserError(f"arm {initial_arm!r} initializes itself ({cycle}); change init_from of one of these arms")
        dependencies.append(initial_arm)
      arms |= dict.fromkeys(reversed(dependencies))
    return [(arm, seed) for seed in range(num_seeds) for arm in arms]


def load_study(recipe: str, folder: pathlib.PurePath, data_dir: str = "", only: Sequence[str] = ()) -> Study:
  """Loads the study of a recipe.

  Args:
    recipe: `RECIPE` or `RECIPE:VARIANTS`, of a file or of a recipe by name, with `get_config` and `STUDY`.
    folder: of the runs and the results, local or in a bucket.
    data_dir: dataset directory; "": the recipe's.
    only: arms to run and compare; (): all.

  Raises:
    UserError: the recipe does not exist or has no STUDY, or an arm does not exist.
  """
  name, _, variants = recipe.partition(":")
  path = os.fspath(find_recipe(name))
  module = explain_errors([], lambda: runpy.run_path(path))
  if "STUDY" not in module or "get_config" not in module:
    raise UserError(f"--config={recipe}: the recipe has no STUDY (the arms to compare); replication has one")
  groups: Groups = module["STUDY"]
  arms = dict.fromkeys(arm for group in groups.values() for arm in group.values())
  for arm in only:
    if arm not in arms:
      raise UserError(f"--only={arm}: the recipe has no such arm; use one of: {' '.join(arms)}")
  if only:
    groups = _select_arms(groups, only)
  return Study(module["get_config"], groups, variants, folder, data_dir)


def _select_arms(groups: Groups, arms: Container[str]) -> dict[str, dict[str, str]]:
  """Returns the groups with these arms only, without groups that have none of them."""
  selected = {title: {name: arm for name, arm in group.items() if arm in arms} for title, group in groups.items()}
  return {title: group for title, group in selected.items() if group}


def run_study(study: Study, num_seeds: int) -> dict[str, Any]:
  """Trains every run that is not finished, resuming interrupted ones, and writes the comparison after each.

  Returns:
    The content of study.json; see `write_comparison`.

  Raises:
    UserError: bad input, checked for all runs before the first one starts; or a finished run was deleted meanwhile.
    Terminated: SIGTERM was received; the current run is saved.
  """
  from clipvip_jax.training import trainer  # imports JAX, which a plan does not need

  plan = study.plan(num_seeds)
  remaining = [(arm, seed) for arm, seed in plan if read_finished_run(study, arm, seed) is None]
  for arm, seed in dict(reversed(remaining)).items():
    _check_arm(study, arm, seed)
  progress = ProgressReporter(len(remaining), "runs")
  for index, (arm, seed) in enumerate(remaining):
    log.info("%s, seed %d (%d finished before) | %s", arm, seed, len(plan) - len(remaining), progress.line(index))
    trainer.train(study.config(arm, seed), study.workdir(arm, seed))
    write_comparison(study, num_seeds)
  comparison = write_comparison(study, num_seeds)
  if lost := [study.workdir(*run) for run in plan if read_finished_run(study, *run) is None]:
    raise UserError(
      f"{lost[0]} is no longer finished: another program deleted or changed it; run the same command again"
    )
  return comparison


def _check_arm(study: Study, arm: str, seed: int) -> None:
  """Raises UserError for an arm whose configuration, or path of initial weights, its run would refuse."""
  from clipvip_jax.training import config_checks
  from clipvip_jax.weights import source_paths

  config, workdir = study.config(arm, seed), study.workdir(arm, seed)
  try:
    if not study.initial_arm(arm):
      config = fill_sizes(config, fetch_files(workdir))
      if config.init_from and not has_checkpoints(workdir):
        source_paths.check_source(config.init_from)
    elif config.sizes_from_weights:  # of a run that may not exist yet
      return
    config_checks.check_fields(config)
  except UserError as error:
    raise UserError(f"arm {arm!r}: {error}") from error


def read_finished_run(study: Study, arm: str, seed: int) -> results.RunResults | None:
  """Returns the results of a finished run; None where it is not finished, or was extended since.

  Raises:
    UserError: the workdir holds a run of another configuration, or its results are corrupt.
  """
  workdir = study.workdir(arm, seed)
  folder = fetch_files(workdir)
  config = study.config(arm, seed)
  if (folder / "config.json").is_file():
    config = fill_sizes(config, folder)
  with errors_by_address():
    run_workdir.check_config(folder, config_tree.to_json_dict(config))
  run = results.read_results(workdir) if (folder / "results.json").is_file() else None
  return None if run is None or run.extended else run


def write_comparison(study: Study, num_seeds: int) -> dict[str, Any]:
  """Compares finished runs in study.json, study.md and study.html; warns where they are not comparable.

  Returns:
    The content of study.json: {"groups": {title: {name: arm}}, "arms": {arm: {"seeds", "splits", "curves": {seed:
    points}}}, "warnings": [text]}; numbers of "splits" are means and standard deviations over the seeds.
  """
  arms, warnings = {}, []
  corpora: dict[object, tuple[pathlib.PurePath, object]] = {}  # by name, as the first run has it
  for arm in study.arms():
    runs = {seed: run for seed in range(num_seeds) if (run := read_finished_run(study, arm, seed))}
    if runs:
      arms[arm] = study_page.summarize_arm(runs)
    for run in runs.values():
      name = run.corpus.get("name")
      first, corpus = corpora.setdefault(name, (run.folder, run.corpus))
      if run.corpus != corpus:
        warnings.append(f"{first} and {run.folder} are not comparable: {name} was built anew between them")
  for warning in warnings:
    log.warning("%s", warning)
  comparison = {"groups": _select_arms(study.groups, arms), "arms": arms, "warnings": warnings}
  with uploaded_folder(study.folder, "--workdir", (), "study.json") as folder:
    folder.mkdir(parents=True, exist_ok=True)
    config_tree.write_json(folder / "study.json", comparison)
    study_page.write_study(folder, comparison)
  return comparison
