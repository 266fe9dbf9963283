"""Integrity of checkpoints: digests that are committed with the files, and checks of what was read.

It detects corruption; `checkpoint.py` quarantines the checkpoint and falls back to the one before. Orbax verifies its
manifests, but not the data of arrays: without digests, a flipped bit is restored as another number.
"""

import asyncio
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
from orbax.checkpoint.path import atomicity

from clipvip_jax.distributed.coordination import allgather_text
from clipvip_jax.runs.run_identity import IDENTITY
from clipvip_jax.utils import file_digests
from clipvip_jax.utils.log import log

DataPosition = dict[str, int]  # where the input pipeline resumes
POSITION = "next_record"  # its only entry


class DigestedPath(atomicity.AtomicRenameTemporaryPath):
  """Temporary folder of a checkpoint to which digests of all files are added before it is committed.

  Orbax writes the last files immediately before it renames the folder. It renames to a second temporary name here,
  which it also deletes after a crash; the folder gets its own name when the digests are written.
  """

  async def finalize(self) -> None:
    """Completes the files, writes digests.json and commits the folder."""
    final = self.get_final()
    if not final.name.isdigit():  # an item within a checkpoint
      await super().finalize()
      return
    self._final_path = final.with_name(f"{final.name}{atomicity.TMP_DIR_SUFFIX}-digests")
    await super().finalize()
    await asyncio.to_thread(file_digests.write_digests, pathlib.Path(self._final_path))
    self._final_path.rename(final)
    self._final_path = final


def verify_files(folder: pathlib.Path) -> None:
  """Compares the files of a checkpoint with their digests.

  Raises:
    ValueError: a file is missing or was changed.
    OSError: a file cannot be read.
  """
  if not file_digests.check_digests(folder):
    if (folder / IDENTITY).exists():  # which no version without digests wrote
      raise ValueError(f"{file_digests.NAME} is missing")
    log.warning("%s has no %s: an earlier version wrote it, and it cannot be verified", folder, file_digests.NAME)


def verify_for_all_processes(folder: pathlib.Path) -> None:
  """Compares the files on process 0, for all processes: Orbax' restore would hang in those that it fails in alone.

  Raises:
    ValueError: on all processes; a file is missing, was changed or cannot be read.
  """
  problem = ""
  if jax.process_index() == 0:
    try:
      verify_files(folder)
    except (ValueError, OSError) as error:
      problem = str(error)
  problem = allgather_text(problem)[0]
  if problem:
    raise ValueError(problem)


def check_position(step: int, state_step: int, position: Any, batch_size: int | None) -> None:
  """Checks that the name of a checkpoint, its state and its data position are of the same step.

  Args:
    step: the name of its folder.
    state_step: completed updates of its state.
    position: its data position, of any type.
    batch_size: records per step; None if unknown.

  Raises:
    ValueError: they are of different steps, or the position is not one.
  """
  if state_step != step:
    raise ValueError(f"it is named {step}, but its state is of step {state_step}")
  record = position.get(POSITION) if isinstance(position, Mapping) else None
  if not isinstance(record, int) or isinstance(record, bool) or record < 0:
    raise ValueError(f"its data position is invalid: {position!r}")
  if batch_size is not None and record != step * batch_size:
    raise ValueError(
      f"its data position is record {record}, but {step} steps of {batch_size} end at {step * batch_size}"
    )
