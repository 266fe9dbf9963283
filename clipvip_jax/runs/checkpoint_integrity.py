"""Integrity of checkpoints: digests that are committed with the files, and checks of what was read.

It detects corruption; `checkpoint.py` quarantines the checkpoint and falls back to the one before. Orbax verifies its
manifests, but not the data of arrays: without digests, a flipped bit is restored as another number.
"""

import asyncio
import concurrent.futures
import contextlib
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
from etils import epath
from orbax.checkpoint.path import atomicity

from clipvip_jax.distributed.coordination import allgather_text
from clipvip_jax.runs import checkpoint_copy
from clipvip_jax.runs.checkpoint_identity import IDENTITY
from clipvip_jax.utils import file_digests, unraisable
from clipvip_jax.utils.log import log

DataPosition = dict[str, int]  # where the input pipeline resumes
POSITION = "next_record"  # its only entry
ITEMS = ("state", "data", IDENTITY)  # folders of a checkpoint
_LARGE_BYTES = 2**20


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


def upload_after_commit(remote: epath.Path) -> type[DigestedPath]:
  """Returns a class that also uploads each checkpoint to `remote`, which fails its save if it is not possible."""

  class UploadedPath(DigestedPath):
    async def finalize(self) -> None:
      await super().finalize()
      final = self.get_final()
      if final.name.isdigit():
        await asyncio.to_thread(checkpoint_copy.publish, pathlib.Path(final), remote / final.name)

  return UploadedPath


def commit_in_bucket(scratch: pathlib.Path) -> type[atomicity.CommitFileTemporaryPath]:
  """Returns a class for checkpoints that Orbax writes to a bucket, where nothing can be renamed.

  They get their own name at once, and Orbax' commit file last, after the digests.

  Args:
    scratch: local folder for the copy of a checkpoint from which its digests are computed.
  """

  class CommitFilePath(atomicity.CommitFileTemporaryPath):
    async def finalize(self) -> None:
      if self.get_final().name.isdigit():  # not an item within a checkpoint
        await asyncio.to_thread(checkpoint_copy.write_digests, self.get_final(), scratch)
      await super().finalize()

  return CommitFilePath


def verify_files(folder: pathlib.Path, select: Callable[[str], bool] = lambda name: True) -> None:
  """Compares the files of a checkpoint with their digests; `select` chooses by name.

  Raises:
    ValueError: a file is missing or was changed.
    OSError: a file cannot be read.
  """
  if (folder / IDENTITY).exists():
    _check_coverage(folder)
  if not file_digests.check_digests(folder, select):
    log.warning("%s has no %s: an earlier version wrote it, and it cannot be verified", folder, file_digests.NAME)


def _check_coverage(folder: pathlib.Path) -> None:
  """Raises ValueError unless the digests are complete; of a checkpoint with an identity, no version wrote others."""
  digests = file_digests.read_digests(folder, has_own=True)
  if digests is None:
    raise ValueError(f"{file_digests.NAME} is missing")
  files = (path for item in ITEMS for path in (folder / item).rglob("*") if path.is_file())
  if unlisted := [name for path in files if (name := path.relative_to(folder).as_posix()) not in digests]:
    raise ValueError(f"{file_digests.NAME} does not list {unlisted[0]}")


@contextlib.contextmanager
def verify_while_reading(folder: pathlib.Path) -> Iterator[None]:
  """Verifies the digests of a checkpoint around a `with` block that reads it.

  Small files, which hold the structure, are verified before the block; large ones, which hold the arrays, in a thread
  while the block reads them.

  Raises:
    ValueError: a file is missing or was changed; from large files after the block, in place of any error of it.
    OSError: likewise; a file cannot be read.
  """

  def is_large(name: str) -> bool:
    return (folder / name).is_file() and (folder / name).stat().st_size > _LARGE_BYTES

  verify_files(folder, lambda name: not is_large(name))
  unraisable.handle(unraisable.is_late_callback)  # of reads that Orbax abandons
  with concurrent.futures.ThreadPoolExecutor(1, "digests") as pool:
    verification = pool.submit(file_digests.check_digests, folder, is_large)
    try:
      yield
    except Exception:
      verification.result()
      raise
    verification.result()


@contextlib.contextmanager
def verified(folder: pathlib.Path) -> Iterator[None]:
  """Verifies a checkpoint that all processes read inside a `with` block, with the errors of `verify_while_reading`."""
  if jax.process_count() > 1:  # before, since Orbax' restore would hang in the others if it failed in one
    verify_for_all_processes(folder)
    yield
    return
  with verify_while_reading(folder):
    yield


def verify_for_all_processes(folder: pathlib.Path) -> None:
  """Compares the files on process 0, for all processes.

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
