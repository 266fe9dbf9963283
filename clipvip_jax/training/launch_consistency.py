"""What the processes of a launch must agree on; where they do not, all of them end with the same words."""

import hashlib
import json
import pathlib
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from clipvip_jax.distributed.coordination import allgather_text, raise_on_all_processes
from clipvip_jax.runs import workdir
from clipvip_jax.utils import config_tree
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.versions import code_digest

# Network file systems show a new file to another host only after a while.
_NOTICE_SECONDS = 60
# Fields that may differ between hosts, as between two parts of a run, but for these: all processes delete together, and
# run one program.
_MUST_AGREE = re.compile(r"host\.keep_checkpoints|model\.attention|train\.num_microbatches|mesh\..*")


def check_shared(folder: pathlib.Path, name: str) -> None:
  """Refuses a folder of which some process sees another copy than process 0. All processes must call it.

  Args:
    folder: where process 0 has just written the file `name`.

  Raises:
    UserError: names the process.
  """
  if jax.process_count() == 1:
    return
  wanted = allgather_text(_text(folder / name))[0]
  deadline = time.monotonic() + _NOTICE_SECONDS
  while (there := _text(folder / name)) != wanted and time.monotonic() < deadline:
    time.sleep(1)
  raise_on_all_processes(
    "" if there == wanted else f"--workdir={folder} is not the folder that process 0 writes to: share it"
  )


def _text(path: pathlib.Path) -> str:
  try:
    return path.read_text(encoding="utf-8")
  except OSError as error:
    return f"{error.strerror}"


def check(config: Any, versions: Mapping[str, str]) -> None:
  """Refuses a launch whose processes were started with other configurations, code or packages. All must call it.

  Args:
    config: the whole configuration.
    versions: of the packages.

  Raises:
    UserError: names the process, and the fields with both values.
  """
  if jax.process_count() == 1:
    return
  mine = describe(config_tree.to_json_dict(config), versions)
  if len(set(allgather_text(_digest(mine)))) == 1:
    return
  found = [json.loads(text) for text in allgather_text(json.dumps(mine))]
  raise UserError(f"the processes of this launch do not agree: {difference(found)}. Start all with the same command")


def describe(config: Mapping[str, Any], versions: Mapping[str, str]) -> dict[str, str]:
  """{what processes must agree on: its value}.

  Args:
    config: as `config_tree.to_json_dict` gives it.
    versions: of the packages.
  """
  fields = {
    name: json.dumps(value)
    for name, value in config_tree.flatten(config)
    if _MUST_AGREE.fullmatch(name) or not workdir.may_change(name)
  }
  return {**fields, **{f"version of {name}": value for name, value in versions.items()}, "code": code_digest()}


def difference(found: Sequence[Mapping[str, str]]) -> str:
  """Which process differs from process 0, and in what, of what `describe` gave in each; "": none does."""
  first, absent = found[0], "absent"
  parts = []
  for process, other in enumerate(found):
    changed = [
      f"{name} is {other.get(name, absent)}, in process 0 {first.get(name, absent)}"
      for name in sorted(first.keys() | other.keys())
      if first.get(name) != other.get(name)
    ]
    if changed:
      parts.append(f"process {process}: {', '.join(changed)}")
  return "; ".join(parts)


def _digest(found: Mapping[str, str]) -> str:
  return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()
