"""Checkpoints in buckets, and local copies of them.

The objects of a checkpoint appear one by one, so it counts as committed when digests.json and Orbax' commit file, which
are written last and deleted first, exist. A local copy is used after its files were compared with digests.json.
"""

import concurrent.futures
import functools
import pathlib
import re
import shutil
import tempfile
from collections.abc import Callable

from etils import epath

from clipvip_jax.runs.workdir import checkpoint_folders
from clipvip_jax.utils import file_digests, transfers

COMMIT_FILE = "commit_success.txt"  # Orbax'
ORBAX_METADATA = "_CHECKPOINT_METADATA"  # times of the save, which Orbax writes after the digests
_THREADS = 8  # concurrent transfers


def is_small(name: str) -> bool:
  """Returns whether a file of a checkpoint is small: all are, except those of the state."""
  return not name.startswith("state/")


def list_steps(remote: epath.Path) -> dict[int, bool]:
  """Returns {step: whether it is committed} of all checkpoints in WORKDIR/checkpoints of a bucket, in order."""
  names: dict[int, set[str]] = {}
  for path in transfers.list_names(remote):
    folder, _, name = path.partition("/")
    if name and re.fullmatch(r"0|[1-9][0-9]*", folder):
      names.setdefault(int(folder), set()).add(name)
  return {step: {file_digests.NAME, COMMIT_FILE} <= names[step] for step in sorted(names)}


def committed_steps(remote: epath.Path) -> list[int]:
  """Returns the steps of the committed checkpoints in WORKDIR/checkpoints of a bucket, sorted."""
  return [step for step, committed in list_steps(remote).items() if committed]


def pull(remote: epath.Path, local: pathlib.Path) -> None:
  """Makes a local folder a copy of WORKDIR/checkpoints of a bucket, except for the states, which are large.

  States that are in the local folder remain, if their checkpoint does.

  Raises:
    UserError: the bucket cannot be read.
    OSError: the folder cannot be written.
  """
  steps = committed_steps(remote)
  for folder in checkpoint_folders(local):
    if int(folder.name) not in steps:
      shutil.rmtree(folder)
  for step in steps:
    try:
      download_files(remote / str(step), local / str(step), is_small)
    except FileNotFoundError:  # deleted meanwhile by the run that wrote it
      shutil.rmtree(local / str(step))
    except ValueError:  # a corrupt digests.json or a missing file, which restoring reports
      pass


def fetch(remote: epath.Path, local: pathlib.Path) -> None:
  """Makes a local folder a complete and verified copy of a checkpoint.

  Raises:
    ValueError: a file is missing in the bucket, or does not match its digest there.
    UserError: the bucket cannot be read.
    OSError: the folder cannot be written.
  """
  try:
    download_files(remote, local)
  except FileNotFoundError as error:
    raise ValueError(str(error)) from error
  if not file_digests.check_digests(local):
    raise ValueError(f"{file_digests.NAME} is missing")


def download_files(remote: epath.Path, local: pathlib.Path, select: Callable[[str], bool] = lambda name: True) -> None:
  """Downloads the files of a checkpoint that are missing in a local folder or do not match their digests.

  Args:
    remote: folder of a checkpoint in a bucket.
    local: its copy, which is created if absent.
    select: which of the files with a digest to download, by name.

  Raises:
    FileNotFoundError: the checkpoint is not committed.
    ValueError: digests.json is corrupt, or a file that it lists does not exist in the bucket.
    UserError: the bucket cannot be read.
    OSError: the folder cannot be written.
  """
  local.mkdir(parents=True, exist_ok=True)
  for name in (file_digests.NAME, COMMIT_FILE):
    _download(remote, local, name)
  digests = file_digests.read_digests(local) or {}
  names = list(filter(select, digests))
  present = [name for name in names if (local / name).is_file()]
  actual = dict(zip(present, file_digests.digest_files(local / name for name in present), strict=True))
  wanted = [name for name in names if actual.get(name) != digests[name]]
  with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
    try:
      list(pool.map(lambda name: _download(remote, local, name), wanted))
    except FileNotFoundError as error:
      raise ValueError(str(error)) from error


def _download(remote: epath.Path, local: pathlib.Path, name: str) -> None:
  (local / name).parent.mkdir(parents=True, exist_ok=True)
  try:
    transfers.download(remote / name, local / name)
  except FileNotFoundError as error:
    raise FileNotFoundError(f"{name} is missing") from error


def publish(local: pathlib.Path, remote: epath.Path) -> None:
  """Uploads a committed checkpoint, digests.json last. Replaces a half-written one.

  Raises:
    UserError: the bucket cannot be written.
    OSError: a file cannot be read.
  """
  delete(remote)
  names = [path.relative_to(local).as_posix() for path in sorted(local.rglob("*")) if path.is_file()]
  names.remove(file_digests.NAME)
  with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
    list(pool.map(lambda name: transfers.upload(local / name, remote / name), names))
  transfers.upload(local / file_digests.NAME, remote / file_digests.NAME)


def write_digests(remote: epath.Path, scratch: pathlib.Path) -> None:
  """Adds digests.json to a complete checkpoint in a bucket, of what is read back from there.

  Args:
    remote: folder of the checkpoint, which is not committed yet.
    scratch: local folder for a temporary copy.

  Raises:
    UserError: the bucket cannot be read or written.
    OSError: the local folder cannot be written.
  """
  scratch.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory(prefix=f"digests_{remote.name}_", dir=scratch) as temporary:
    local = pathlib.Path(temporary)
    transfers.download_folder(remote, local)
    file_digests.write_digests(local, lambda name: name != ORBAX_METADATA)
    transfers.upload(local / file_digests.NAME, remote / file_digests.NAME)


def delete(folder: epath.Path) -> None:
  """Deletes a checkpoint in a bucket, its commit files first, so that no part of it is trusted. Idempotent.

  Raises:
    UserError: the bucket cannot be written.
  """

  def attempt() -> None:
    for name in (COMMIT_FILE, file_digests.NAME):
      (folder / name).unlink(missing_ok=True)
    folder.rmtree(missing_ok=True)

  transfers.retry(folder, attempt)


def move(folder: epath.Path, target: epath.Path) -> None:
  """Moves a checkpoint within a bucket. If it is interrupted, the checkpoint remains where it was.

  Raises:
    UserError: the bucket cannot be written.
  """
  delete(target)
  for name in transfers.list_names(folder):
    transfers.retry(folder, functools.partial((folder / name).copy, target / name, overwrite=True))
  delete(folder)
