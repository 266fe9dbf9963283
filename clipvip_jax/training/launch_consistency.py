"""Checks that the processes of a launch share configuration, code, packages and workdir."""

import hashlib
import json
import re
import time
from collections.abc import Mapping, Sequence

import jax
from ml_collections import ConfigDict

from clipvip_jax.distributed.coordination import allgather_text, raise_on_all_processes
from clipvip_jax.runs import workdir as run_workdir
from clipvip_jax.runs.run_folder import RunFolder
from clipvip_jax.utils import config_tree
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.versions import code_digest

# Network file systems show a new file to other hosts with a delay.
_SHARED_FILE_TIMEOUT_SECONDS = 60
# Fields that may change when a run resumes, but not between its processes: all delete the same checkpoints and run the
# same program.
_SAME_ON_ALL_PROCESSES = re.compile(r"host\.keep_checkpoints|model\.attention|train\.num_microbatches|mesh\..*")


def check_shared_workdir(folder: RunFolder) -> None:
  """Checks that every process sees the workdir that process 0 writes to. All processes must call it.

  Args:
    folder: the run's folder, which process 0 has locked.

  Raises:
    UserError: on all processes; names the process that sees another workdir.
  """
  if jax.process_count() == 1:
    return
  expected = allgather_text(folder.read_holder())[0]
  deadline = time.monotonic() + _SHARED_FILE_TIMEOUT_SECONDS
  while (content := folder.read_holder()) != expected and time.monotonic() < deadline:
    time.sleep(1)
  problem = f"--workdir={folder.address} is not the workdir of process 0; use a folder that all hosts share"
  raise_on_all_processes("" if content == expected else problem)


def check_launch(config: ConfigDict, versions: Mapping[str, str]) -> None:
  """Checks that all processes have the same configuration, code and package versions. All processes must call it.

  Args:
    config: the whole configuration.
    versions: package name to version.

  Raises:
    UserError: on all processes; names the differing process and its fields with both values.
  """
  if jax.process_count() == 1:
    return
  settings = launch_settings(config_tree.to_json_dict(config), versions)
  if len(set(allgather_text(_digest(settings)))) == 1:
    return
  all_settings = [json.loads(text) for text in allgather_text(json.dumps(settings))]
  raise UserError(
    f"the processes of this launch differ: {describe_differences(all_settings)}. Start all of them with the same"
    " command, code and packages"
  )


def launch_settings(config: Mapping[str, object], versions: Mapping[str, str]) -> dict[str, str]:
  """Returns {name: value} of everything that must be the same on all processes.

  Args:
    config: the configuration as `config_tree.to_json_dict` returns it.
    versions: package name to version.
  """
  fields = {
    name: json.dumps(value)
    for name, value in config_tree.flatten(config)
    if _SAME_ON_ALL_PROCESSES.fullmatch(name) or not run_workdir.may_change(name)
  }
  return {**fields, **{f"version of {name}": value for name, value in versions.items()}, "code": code_digest()}


def describe_differences(settings: Sequence[Mapping[str, str]]) -> str:
  """Describes how the `launch_settings` of each process differ from those of process 0; "" where none do."""
  reference, absent = settings[0], "absent"
  descriptions = []
  for process, other in enumerate(settings):
    changed = [
      f"{name} is {other.get(name, absent)}, in process 0 {reference.get(name, absent)}"
      for name in sorted(reference.keys() | other.keys())
      if reference.get(name) != other.get(name)
    ]
    if changed:
      descriptions.append(f"process {process}: {', '.join(changed)}")
  return "; ".join(descriptions)


def _digest(settings: Mapping[str, str]) -> str:
  return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
