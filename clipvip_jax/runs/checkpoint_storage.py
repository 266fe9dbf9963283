"""Storage of the checkpoints of a run: a folder, or a bucket with a local folder of copies.

In a bucket of gs://, Orbax and TensorStore write the checkpoint themselves, all processes their part. TensorStore's
driver of s3:// is unknown to Orbax: there, checkpoints are written to the local folder and uploaded, which requires
that all processes are on one host. From both, checkpoints are restored through verified local copies.
"""

import contextlib
import pathlib
import shutil
import socket
from collections.abc import Callable, Iterator, Sequence

import jax
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint.path import atomicity

from clipvip_jax.distributed.coordination import allgather_text, raise_on_all_processes
from clipvip_jax.runs import checkpoint_copy
from clipvip_jax.runs.checkpoint_integrity import DigestedPath, commit_in_bucket, upload_after_commit, verified
from clipvip_jax.runs.checkpoint_scores import SCORE_FILE, remove_score, write_score
from clipvip_jax.runs.orbax_internals import limit_gcs_retries
from clipvip_jax.runs.workdir import checkpoint_folders
from clipvip_jax.utils import file_digests, storage, storage_clients, transfers
from clipvip_jax.utils.errors import UserError


class FolderStorage:
  """Checkpoints in a folder of a file system that all processes share.

  Attributes:
    local: the folder in which checkpoints are read.
    written: the folder to which Orbax writes them.
    shown: the folder, for messages.
    path_class: which commits a checkpoint.
  """

  def __init__(self, local: pathlib.Path):
    self.local = local
    self.written = self.shown = epath.Path(local)
    self.path_class: type[atomicity.TemporaryPathBase] = DigestedPath

  def explained(self) -> contextlib.AbstractContextManager[object]:
    """Converts errors of writing, inside a `with` block, to UserErrors."""
    return contextlib.nullcontext()

  def pull(self) -> None:
    """Updates the local copies of everything except states, before checkpoints are listed. Called by all processes."""

  def readable(self, step: int) -> contextlib.AbstractContextManager[None]:
    """Verifies a checkpoint that all processes read in `local` inside a `with` block.

    Raises:
      ValueError: it is corrupt.
      OSError: likewise.
      UserError: the bucket cannot be read.
    """
    return verified(self.local / str(step))

  def set_score(self, step: int, score: float) -> None:
    """Adds a score to a committed checkpoint, see `write_score`. Called by process 0."""
    write_score(self.local / str(step), score)

  def remove_score(self, step: int) -> None:
    """Removes the corrupt score of a checkpoint, see `checkpoint_scores.remove_score`. Called by process 0."""
    remove_score(self.local / str(step))

  def quarantine(self, step: int) -> epath.Path:
    """Moves a checkpoint to corrupt_checkpoints/, and returns its new path. Called by process 0."""
    target = self.local.with_name("corrupt_checkpoints") / str(step)
    target.parent.mkdir(exist_ok=True)
    if target.exists():
      shutil.rmtree(target)
    (self.local / str(step)).rename(target)
    return epath.Path(target)

  def prune(self, kept: Sequence[int]) -> None:
    """Deletes checkpoints that Orbax has deleted in `written`. Called by process 0, while nothing is saved."""

  def committed_steps(self) -> list[int]:
    """Returns the committed steps, in any order."""
    return [int(folder.name) for folder in checkpoint_folders(self.local)]


class BucketStorage(FolderStorage):
  """Checkpoints in a bucket, with copies in a local folder that the processes of a host share."""

  def __init__(self, local: pathlib.Path, remote: epath.Path):
    """Checks the bucket. Called by all processes.

    Raises:
      UserError: on all processes; several hosts would write to s3://.
    """
    super().__init__(local)
    self.shown = self._remote = remote
    hosts = allgather_text(socket.gethostname())
    self._is_leader = hosts.index(hosts[jax.process_index()]) == jax.process_index()  # the first on its host
    self._is_native = ocp.utils.is_gcs_path(remote)
    if self._is_native:
      self.written, self.path_class = remote, commit_in_bucket(local)
      limit_gcs_retries(storage_clients.TENSORSTORE_RETRIES)
      self._on_leaders(lambda: _check_settings_are_readable(remote))
      return
    self.path_class = upload_after_commit(remote)
    if len(set(hosts)) > 1:
      raise UserError(
        f"{remote}: checkpoints are written there by the processes of one host, these are on several"
        f" ({', '.join(sorted(set(hosts)))}); use a --workdir on gs:// or in a folder that the hosts share"
      )

  def explained(self) -> contextlib.AbstractContextManager[object]:
    return storage.explain_errors(self._remote, "--workdir")

  def _on_leaders(self, action: Callable[[], None]) -> None:
    """Runs an action in the first process of each host.

    Raises:
      UserError: on all processes; that of a host.
      ValueError: likewise.
    """
    problem = corruption = ""
    if self._is_leader:
      try:
        with self.explained():
          action()
      except UserError as error:
        problem = str(error)
      except ValueError as error:
        corruption = str(error)
    raise_on_all_processes(problem)
    if corruption := next(filter(None, allgather_text(corruption)), ""):
      raise ValueError(corruption)

  def pull(self) -> None:
    self._on_leaders(lambda: checkpoint_copy.pull(self._remote, self.local))

  @contextlib.contextmanager
  def readable(self, step: int) -> Iterator[None]:
    self._on_leaders(lambda: checkpoint_copy.fetch(self._remote / str(step), self.local / str(step)))
    yield

  def set_score(self, step: int, score: float) -> None:
    remote, local = self._remote / str(step), self.local / str(step)
    with self.explained():
      checkpoint_copy.download_files(remote, local, checkpoint_copy.is_small)
      write_score(local, score)
      for name in (SCORE_FILE, file_digests.NAME):
        transfers.upload(local / name, remote / name)

  def remove_score(self, step: int) -> None:
    remote, local = self._remote / str(step), self.local / str(step)
    with self.explained():
      checkpoint_copy.download_files(remote, local, checkpoint_copy.is_small)
      super().remove_score(step)
      transfers.upload(local / file_digests.NAME, remote / file_digests.NAME)

  def quarantine(self, step: int) -> epath.Path:
    target = self._remote.parent / "corrupt_checkpoints" / str(step)
    with self.explained():
      checkpoint_copy.move(self._remote / str(step), target)
    shutil.rmtree(self.local / str(step), ignore_errors=True)
    return target

  def prune(self, kept: Sequence[int]) -> None:
    if self._is_native:  # Orbax has deleted them
      return
    with self.explained():
      for step in checkpoint_copy.list_steps(self._remote):
        if step not in kept:
          checkpoint_copy.delete(self._remote / str(step))

  def committed_steps(self) -> list[int]:
    return checkpoint_copy.committed_steps(self._remote)


def _check_settings_are_readable(remote: epath.Path) -> None:
  """Reads the settings of a bucket of gs://, as Orbax does when it lists and deletes checkpoints.

  Raises:
    UserError: it is not permitted, or the project of the user is unknown.
  """
  import google.cloud.storage
  from google.api_core import exceptions
  from google.auth.exceptions import DefaultCredentialsError
  from google.cloud.storage.retry import DEFAULT_RETRY

  bucket = remote.parts[2]  # after "/" and "gs"
  storage.check_bucket(remote, "--workdir")
  try:
    google.cloud.storage.Client().get_bucket(
      bucket, timeout=storage_clients.SILENCE_SECONDS, retry=DEFAULT_RETRY.with_timeout(transfers.RETRY_SECONDS)
    )
  except exceptions.Forbidden as error:
    raise UserError(
      f"--workdir={remote}: the settings of the bucket {bucket}, which Orbax reads, are not permitted to these"
      " credentials; grant them the role Storage Legacy Bucket Reader on the bucket"
    ) from error
  except DefaultCredentialsError:
    raise
  except OSError as error:
    if "Project" not in str(error):
      raise
    raise UserError(
      f"--workdir={remote}: the project of these credentials is unknown, which Orbax needs; set GOOGLE_CLOUD_PROJECT"
    ) from error
