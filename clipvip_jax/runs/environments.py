"""environments.json: versions of code and packages that a run was trained with, and the steps from which they count.

A run may continue with other versions, which may change numbers. It warns, and its results list all of them.
"""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from clipvip_jax.utils import config_tree
from clipvip_jax.utils.log import log

_NAME = "environments.json"


def record_environment(workdir: pathlib.Path, step: int, versions: Mapping[str, str]) -> None:
  """Adds the versions with which a run starts or resumes, and warns where they differ from the last ones.

  Args:
    workdir: the run's folder.
    step: completed updates.
    versions: by name, with the digest of the code as "code".

  Raises:
    OSError: the file cannot be written.
  """
  environments = [entry for entry in read_environments(workdir) if entry["from_step"] <= step]
  last = environments[-1]["versions"] if environments else versions
  changes = [
    f"{name} {last.get(name, 'absent')} -> {versions.get(name, 'absent')}"
    for name in sorted(last.keys() | versions.keys())
    if last.get(name) != versions.get(name)
  ]
  if changes:
    log.warning("the run continues with other versions, which may change its numbers: %s", ", ".join(changes))
  if changes or not environments:
    environments.append({"from_step": step, "versions": dict(versions)})
  config_tree.write_json(workdir / _NAME, environments)


def read_environments(workdir: pathlib.Path) -> list[dict[str, Any]]:
  """Returns {"from_step", "versions"} of each environment, in order; [] if none was recorded or the file is corrupt."""
  try:
    entries = json.loads((workdir / _NAME).read_text(encoding="utf-8"))
  except FileNotFoundError:
    return []
  except (OSError, ValueError, RecursionError):
    entries = None
  if isinstance(entries, list) and all(map(_is_environment, entries)):
    return entries
  log.warning("%s is corrupt; changes of versions before are unknown", workdir / _NAME)
  return []


def _is_environment(entry: Any) -> bool:
  """Returns whether a JSON value is an entry, as `record_environment` writes it."""
  if not isinstance(entry, dict) or type(entry.get("from_step")) is not int or entry["from_step"] < 0:
    return False
  versions = entry.get("versions")
  return isinstance(versions, dict) and all(isinstance(version, str) for version in versions.values())
