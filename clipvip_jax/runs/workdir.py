"""Files of a run's workdir, and the check that a run resumes with the configuration and corpus it was started with.

| file | holds |
|---|---|
| config.json | the configuration that the run was started with |
| corpus.json | name, settings, number of records and content of its corpus, and the digest of its vocabulary |
| tokenizer.json | the vocabulary, if it was built from the corpus |
| environments.json | versions of code and packages, see environments.py |
| extensions.json | numbers of steps, where the run was extended |
| initial_weights.json | SOURCE and digest of the weights that the run started from, see initial_weights.py |
| parameters.txt | names, shapes and shardings of the parameters |
| metrics.jsonl | losses and evaluations by step, see metrics_history.py |
| metrics.jsonl.corrupt | its corrupt lines |
| checkpoints/ | see checkpoint.py |
| corrupt_checkpoints/ | checkpoints that could not be restored, quarantined |
| results.json, report.html | the outcome |
| events.out.tfevents.* | the curves for TensorBoard |
| profile/ | traces of steps, see training/step_profile.py |
| trackers/ | the run's id and last steps at other trackers, see tracking/tracker_process.py |
| wandb/ | files of Weights & Biases |
| lock | host and process id of the run, see workdir_lock.py and, in a bucket, utils/lease.py |
| compiled/ | compiled programs, which a resumed run reuses |
| stack_traces_process_N.txt | stacks of all threads of process N when its watchdog aborted it |
"""

import contextlib
import json
import pathlib
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from clipvip_jax.utils import config_tree
from clipvip_jax.utils.atomic_write import write_problem
from clipvip_jax.utils.errors import UserError

# Fields that change results by no more than the order of sums.
_CHANGEABLE = re.compile(
  r"(host|mesh)\..*|train\.num_microbatches|model\.attention|(data|evaluate|mix\.[^.]+)\.data_dir"
  r"|data\.(prepare|cache_dir|cache_gb)"
)

# Entries of corpus.json that workdirs of earlier versions lack.
_ADDED = re.compile(r"corpus\.(((mix\.[^.]+|evaluated)\.)?content\..*|tokenizer)")

# Fields of NAME.json that workdirs of earlier versions lack, and the values that they had.
_DEFAULTS = {
  "config.data.crop": "squash",
  "config.data.pixels": "float32",
  "config.sizes_from_weights": False,
  "config.train.ema": 0.0,
  "evaluation.data.crop": "squash",
  "evaluation.data.pixels": "float32",
  "job.crop": "squash",
}

# Files that a run reads or replaces.
_FILES = (
  *("config.json", "corpus.json", "tokenizer.json", "environments.json", "extensions.json", "initial_weights.json"),
  *("parameters.txt", "metrics.jsonl", "metrics.jsonl.corrupt", "results.json", "report.html", "lock"),
)

DURATION = ("train.epochs", "train.num_steps")  # fields that change where a run is extended
_EXTENSIONS = "extensions.json"


class _Absent:
  """In place of the value of a field that does not exist."""

  def __repr__(self) -> str:
    return "absent"


_ABSENT = _Absent()


def checkpoint_folders(directory: pathlib.Path) -> list[pathlib.Path]:
  """Returns the folders of the committed checkpoints in WORKDIR/checkpoints, which need not exist."""
  return [path for path in directory.glob("[0-9]*") if re.fullmatch(r"0|[1-9][0-9]*", path.name)]


def may_change(field: str) -> bool:
  """Returns whether a run may be resumed with another value of a field, as "host.num_workers"."""
  return _CHANGEABLE.fullmatch(field) is not None


def check_config(workdir: pathlib.Path, config: Mapping[str, Any], *, extendable: bool = False) -> None:
  """Refuses to resume a run with another configuration.

  Args:
    workdir: the run's folder, which need not exist.
    config: as `config_tree.to_json_dict` returns it.
    extendable: whether the number of steps may differ, see training/duration.py.

  Raises:
    UserError: the run in the folder was started with other values, which are listed; or the folder is a file, holds a
      folder in place of a file, an evaluation or checkpoints without a record of what they were trained with, or its
      config.json cannot be read.
  """
  if workdir.exists() and not workdir.is_dir():
    raise UserError(f"--workdir={workdir} is a file, not a folder; choose another")
  if (workdir / "evaluation.json").exists():
    raise UserError(f"--workdir={workdir} holds an evaluation, not a run; choose another")
  checkpoints = workdir / "checkpoints"
  if checkpoints.exists() and not checkpoints.is_dir():
    raise UserError(f"--workdir={workdir}: checkpoints is a file, not a folder; restore or move it, or choose another")
  folders = [name for name in _FILES if (workdir / name).is_dir()]
  if folders:
    raise UserError(f"--workdir={workdir}: {folders[0]} is a folder, not a file; move it, or choose another")
  missing = [name for name in ("config.json", "corpus.json") if not (workdir / name).exists()]
  if missing and checkpoint_folders(checkpoints):
    raise UserError(
      f"--workdir={workdir} holds checkpoints, but no {missing[0]} that records what they were trained with; restore"
      " that file, or choose another"
    )
  check_same(workdir, "config", config, ignore=DURATION if extendable else ())


def check_corpus(workdir: pathlib.Path, corpus: Mapping[str, Any]) -> None:
  """Refuses to resume a run on other records, with the same errors as `check_config`."""
  check_same(workdir, "corpus", corpus)


def claim(workdir: pathlib.Path, config: Mapping[str, Any], corpus: Mapping[str, Any]) -> None:
  """Creates the folder and writes config.json and corpus.json. Called last, so that a refused run leaves no trace.

  Raises:
    UserError: the folder cannot be created or written.
  """
  with explain_write_errors(workdir):
    workdir.mkdir(parents=True, exist_ok=True)
    config_tree.write_json(workdir / "corpus.json", corpus)
    config_tree.write_json(workdir / "config.json", config)


def claim_evaluation(workdir: pathlib.Path, evaluation: Mapping[str, Any], kind: str = "evaluation") -> None:
  """Creates the folder and records in evaluation.json what is evaluated in it.

  Args:
    workdir: the folder, which need not exist.
    evaluation: what the kept features and results depend on.
    kind: what is done in the folder, for the message.

  Raises:
    UserError: the folder is a file, holds a run or an evaluation of something else, or cannot be written.
  """
  if workdir.exists() and not workdir.is_dir():
    raise UserError(f"--workdir={workdir} is a file; name a folder")
  existing = {name for name in ("config.json", "results.json", "evaluation.json") if (workdir / name).exists()}
  if "config.json" in existing or (existing and "evaluation.json" not in existing):
    raise UserError(f"--workdir={workdir} holds a run; name another folder for its {kind}")
  check_same(workdir, "evaluation", evaluation)
  with explain_write_errors(workdir):
    workdir.mkdir(parents=True, exist_ok=True)
    config_tree.write_json(workdir / "evaluation.json", evaluation)


@contextlib.contextmanager
def explain_write_errors(workdir: pathlib.Path) -> Iterator[None]:
  """Converts an OSError of a block that writes to the folder.

  Raises:
    UserError: the folder cannot be written.
  """
  try:
    yield
  except OSError as error:
    raise UserError(f"--workdir={workdir} {write_problem(error, 'choose another')}") from error


def record_extension(workdir: pathlib.Path, old: int, new: int) -> None:
  """Records that a run of `old` steps is extended to `new` steps. Idempotent.

  Raises:
    UserError: the file cannot be read or written.
  """
  extensions = read_extensions(workdir)
  entry = {"from": old, "to": new}
  if entry not in extensions[-1:]:
    with explain_write_errors(workdir):
      config_tree.write_json(workdir / _EXTENSIONS, [*extensions, entry])


def read_extensions(workdir: pathlib.Path) -> list[dict[str, int]]:
  """Returns {"from": steps, "to": steps} of each extension of a run, in order.

  Raises:
    UserError: the file cannot be read.
  """
  path = workdir / _EXTENSIONS
  try:
    extensions = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    if not isinstance(extensions, list) or not all(isinstance(entry, dict) for entry in extensions):
      raise ValueError("it is not a list of extensions")
    return extensions
  except (OSError, ValueError, RecursionError) as error:
    raise UserError(f"{path} cannot be read ({error}); delete it to resume without the run's history") from error


def check_same(
  workdir: pathlib.Path,
  name: str,
  current: Mapping[str, Any],
  flag: str = "--workdir",
  ignore: Collection[str] = (),
  remedy: str = "",
) -> None:
  """Compares `current` with NAME.json in a folder, except for fields that may change. Passes if there is no such file.

  Args:
    workdir: the folder.
    name: of the file, and of what it describes in the error.
    current: the values of this command.
    flag: the option that chose the folder.
    ignore: fields that may differ.
    remedy: what else to do if values differ, for the message.

  Raises:
    UserError: values differ, each listed with both; or the file cannot be read.
  """
  path = workdir / f"{name}.json"
  if not path.exists():
    return
  try:
    recorded = dict(json.loads(path.read_text(encoding="utf-8")))
  except (ValueError, TypeError, RecursionError) as error:
    raise UserError(f"{path} cannot be read ({error}); choose another {flag}") from error
  tasks = [values.get("task", "retrieval") for values in (recorded, current)]  # of evaluations
  if tasks[0] != tasks[1]:
    raise UserError(f"{workdir} holds an evaluation of {tasks[0]}, not of {tasks[1]}; choose another {flag}")
  changes = find_changes(name, recorded, current, ignore)
  unknown = [field for field, values in changes.items() if _ABSENT in values]
  if unknown:
    where = "here" if changes[unknown[0]][0] is _ABSENT else "there"
    raise UserError(
      f"{path} is of another version of this project, where fields differ ({', '.join(unknown)}; the"
      f" first exists only {where}): continue it with that version, or choose another {flag}"
    )
  if changes:
    raise UserError(
      f"{workdir} holds a run with another {name} ({format_changes(changes)}); choose another {flag}, or the same"
      f" values{remedy}"
    )


def find_changes(
  name: str, recorded: Mapping[str, Any], current: Mapping[str, Any], ignore: Collection[str] = ()
) -> dict[str, tuple[Any, Any]]:
  """Returns {field: (recorded value, current value)} of the values that differ and may not.

  Args:
    name: "config" or "corpus", which the values describe.
    recorded: by field, nested.
    current: by field, nested.
    ignore: fields that may differ.
  """
  there, now = (dict(config_tree.flatten(tree)) for tree in (recorded, current))
  there = {**{field: _DEFAULTS[key] for field in now if (key := f"{name}.{field}") in _DEFAULTS}, **there}
  fields = [field for field in sorted(there.keys() | now.keys()) if field not in ignore and not may_change(field)]
  fields = [field for field in fields if field in there or not _ADDED.fullmatch(f"{name}.{field}")]
  pairs = {field: (there.get(field, _ABSENT), now.get(field, _ABSENT)) for field in fields}
  return {field: (old, new) for field, (old, new) in pairs.items() if old != new}


def format_changes(changes: Mapping[str, tuple[Any, Any]]) -> str:
  """Formats the result of `find_changes`."""
  return "; ".join(f"{field}: {old!r} there, {new!r} now" for field, (old, new) in changes.items())
