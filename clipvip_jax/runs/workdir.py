"""What a run keeps in its folder besides checkpoints, and whose folder it is.

| file | holds |
|---|---|
| config.json | the configuration that the run was started with |
| corpus.json | name, settings and number of records of the corpus that it was started on |
| tokenizer.json | the vocabulary, where it was built from the corpus |
| metrics.jsonl | losses and evaluations by step: what the report's curves are drawn from |
| checkpoints/ | see checkpoint.py |
| results.json, report.html | the outcome |
| events.out.tfevents.* | the same curves for TensorBoard |
| lock | who runs there, or did last: see lock.py |
| compiled/ | programs that a run which goes on need not compile again |
| stuck_process_N.txt | where the threads of process N stood when its watchdog ended it: see watchdog.py |
"""

import contextlib
import json
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from clipvip_jax.utils import config_tree
from clipvip_jax.utils.errors import UserError

# What cannot change a result but for the order of sums: a run may be continued with other values.
_FREE = re.compile(
  r"(host|mesh)\..*|train\.num_microbatches|model\.attention|(data|evaluate)\.data_dir|data\.prepare|mix\.[^.]+\.data_dir"
)


def may_change(field: str) -> bool:
  """Whether a run may be continued with another value of a field, as "host.num_workers"."""
  return _FREE.fullmatch(field) is not None


def check_config(workdir: pathlib.Path, config: Mapping[str, Any]) -> None:
  """Refuses to go on with a run of another configuration.

  Args:
    workdir: the run's folder, which need not exist.
    config: as `plain` gives it.

  Raises:
    UserError: the folder holds a run with other values; each is named with both. Or it is no folder, or its config.json
      cannot be read.
  """
  if workdir.exists() and not workdir.is_dir():
    raise UserError(f"--workdir={workdir} is a file, not a folder")
  if (workdir / "evaluation.json").exists():
    raise UserError(f"--workdir={workdir} holds an evaluation: name another for a run")
  check_same(workdir, "config", config)


def check_corpus(workdir: pathlib.Path, corpus: Mapping[str, Any]) -> None:
  """Refuses to go on with a run on other records than it was started on, with the same errors as `check_config`."""
  check_same(workdir, "corpus", corpus)


def claim(workdir: pathlib.Path, config: Mapping[str, Any], corpus: Mapping[str, Any]) -> None:
  """Makes the folder and notes whose it is. The last step of preparing a run: what was refused before left no trace.

  Raises:
    UserError: the folder cannot be made or written.
  """
  with explain_write_errors(workdir):
    workdir.mkdir(parents=True, exist_ok=True)
    config_tree.write_json(workdir / "corpus.json", corpus)
    config_tree.write_json(workdir / "config.json", config)


@contextlib.contextmanager
def explain_write_errors(workdir: pathlib.Path) -> Iterator[None]:
  """A block that writes to the folder.

  Raises:
    UserError: it cannot.
  """
  try:
    yield
  except OSError as error:
    raise UserError(f"--workdir={workdir} cannot be written ({error.strerror}): name another") from error


def check_same(workdir: pathlib.Path, what: str, wanted: Mapping[str, Any], flag: str = "--workdir") -> None:
  """Refuses a folder whose WHAT.json holds other values, each of which is named; one without that file passes.

  Raises:
    UserError: other values, or the file cannot be read.
  """
  path = workdir / f"{what}.json"
  if not path.exists():
    return
  try:
    before = dict(config_tree.flatten(json.loads(path.read_text(encoding="utf-8"))))
  except (ValueError, AttributeError) as error:
    raise UserError(f"{path} cannot be read ({error}): name another {flag}") from error
  now = dict(config_tree.flatten(wanted))
  absent = "absent"
  changed = [
    f"{name}: {before.get(name, absent)!r} there, {now.get(name, absent)!r} now"
    for name in sorted(before.keys() | now.keys())
    if before.get(name, absent) != now.get(name, absent) and not may_change(name)
  ]
  if changed:
    raise UserError(
      f"{workdir} holds a run with another {what} ({'; '.join(changed)}). Name another {flag}, or give the same values"
    )
