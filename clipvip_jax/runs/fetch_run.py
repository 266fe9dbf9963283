"""Local copies of runs and evaluations in buckets, for commands that read them; see `bucket_copies`."""

import pathlib

from clipvip_jax.runs import checkpoint_copy
from clipvip_jax.utils import bucket_copies, storage, transfers
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import log, printable

# Files of a workdir that commands read, see workdir.py and evaluation/run.py.
_FILES = (
  "config.json",
  "corpus.json",
  "tokenizer.json",
  "extensions.json",
  "initial_weights.json",
  "environments.json",
  "metrics.jsonl",
  "results.json",
  "evaluation.json",
)


def fetch_files(workdir: storage.PathLike) -> pathlib.Path:
  """Downloads the files of a workdir that commands read, except checkpoints; returns a local path unchanged.

  Raises:
    UserError: the bucket cannot be read.
  """
  return bucket_copies.fetch_files(workdir, _FILES)


def fetch_run(workdir: storage.PathLike, step: int | None = None) -> pathlib.Path:
  """Downloads a run with one checkpoint, which is verified; returns a local path unchanged.

  Args:
    workdir: of the run.
    step: of the checkpoint; None for the best, or the newest if no score was measured.

  Raises:
    UserError: the bucket cannot be read, there is no such checkpoint, or it is corrupt.
  """
  from clipvip_jax.runs.checkpoint_scores import choose_step  # lazy: Orbax takes seconds to import

  local = fetch_files(workdir)
  if not storage.is_remote(workdir):
    return local
  remote = storage.absolute(workdir) / "checkpoints"
  checkpoint_copy.pull(remote, local / "checkpoints")
  with bucket_copies.errors_by_address():
    step = choose_step(local / "checkpoints", step)
  log.info("downloading the checkpoint of step %d from %s", step, printable(remote))
  try:
    checkpoint_copy.fetch(remote / str(step), local / "checkpoints" / str(step))
  except ValueError as error:
    raise UserError(
      f"the checkpoint of step {step} in {remote} is corrupt ({error}), or was deleted meanwhile; choose another step"
    ) from error
  return local


def has_checkpoints(workdir: storage.PathLike) -> bool:
  """Returns whether a folder has checkpoints, committed or not.

  Raises:
    UserError: the bucket cannot be read.
  """
  folder = storage.absolute(workdir) / "checkpoints"
  return transfers.retry(folder, folder.is_dir) if storage.is_remote(folder) else folder.is_dir()
