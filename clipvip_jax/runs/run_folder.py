"""The folder in which a run reads and writes its files: a workdir on disk, or the local mirror of one in a bucket."""

import contextlib
import functools
import hashlib
import os
import pathlib
import re
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator

import jax
from etils import epath

from clipvip_jax.distributed.coordination import allgather_text, raise_on_all_processes
from clipvip_jax.runs import checkpoint_copy, workdir_lock
from clipvip_jax.runs.checkpoint_paths import check_checkpoint_path
from clipvip_jax.runs.workdir_mirror import WorkdirMirror
from clipvip_jax.utils import lease, storage
from clipvip_jax.utils.atomic_write import write_problem
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import log, printable
from clipvip_jax.utils.time_limit import call_within

LAST_UPLOAD_SECONDS = 60.0  # of a run that ends with an error


class RunFolder:
  """A workdir in a file system that all processes share.

  Attributes:
    path: where files are read and written.
    address: of the workdir, for messages.
    remote: the workdir in a bucket; None for one on disk.
  """

  remote: epath.Path | None = None

  def __init__(self, path: pathlib.Path):
    self.path, self.address = path, str(path)

  def lock(self) -> contextlib.AbstractContextManager[object]:
    """Holds the exclusive lock on the workdir inside a `with` block; see `workdir_lock`. Called by process 0."""
    return workdir_lock.workdir_lock(self.path)

  def check_held(self) -> None:
    """Checks that this run still has the lock. Called by process 0 before each save.

    Raises:
      UserError: it has not, or the files cannot be uploaded.
    """
    workdir_lock.check_held(self.path)

  def read_holder(self) -> str:
    """Returns the content of the lock that process 0 holds, as this process sees it."""
    try:
      return (self.path / workdir_lock.NAME).read_text(encoding="utf-8")
    except OSError as error:
      return f"{error.strerror}"

  def request_upload(self) -> None:
    """Uploads changed files to the bucket in the background. For the log; may be called by any process."""

  def upload(self) -> None:
    """Uploads changed files to the bucket. Called before a checkpoint refers to them; may be called by any process.

    Raises:
      UserError: the bucket cannot be written.
    """


class BucketFolder(RunFolder):
  """The local mirror of a workdir in a bucket, which the processes of a host share. Process 0 uploads."""

  def __init__(self, path: pathlib.Path, remote: epath.Path):
    super().__init__(path)
    self.remote = self._remote = remote
    self.address = str(remote)
    self._lease: lease.Lease | None = None  # of process 0
    self._mirror: WorkdirMirror | None = None  # of the first process of each host

  def open(self, stack: contextlib.ExitStack, *, is_host_leader: bool) -> None:
    """Locks the workdir and its mirror until `stack` closes, and makes the mirror.

    Raises:
      UserError: another run uses the workdir, or the bucket or the mirror cannot be used.
    """
    if jax.process_index() == 0:
      storage.check_bucket(self._remote, "--workdir")
    if is_host_leader:
      _create_scratch(self.path)
      stack.enter_context(workdir_lock.workdir_lock(self.path, self.address))
    if jax.process_index() == 0:
      held = lease.held_lease(self._remote / workdir_lock.NAME, f"--workdir={self._remote}", "run", jax.process_count())
      self._lease = stack.enter_context(held)
    if is_host_leader:
      self._mirror = WorkdirMirror(self.path, self._remote)
      stack.callback(self._mirror.close)

  def pull(self) -> None:
    """Updates the mirror from the bucket.

    Raises:
      UserError: the bucket cannot be read, or the mirror not be written.
    """
    if self._mirror is not None:
      try:
        self._mirror.pull()
        checkpoint_copy.pull(self._remote / "checkpoints", self.path / "checkpoints")
      except OSError as error:
        raise UserError(f"{self.path} {write_problem(error, 'set host.scratch_dir')}") from error

  def lock(self) -> contextlib.AbstractContextManager[object]:
    return contextlib.nullcontext()  # is held since the mirror was made

  def check_held(self) -> None:
    if self._lease is not None:
      self._lease.check_held()
      self.upload()

  def read_holder(self) -> str:
    return lease.read_holder(self._remote / workdir_lock.NAME)

  def request_upload(self) -> None:
    if self._mirror is not None and self._may_upload():
      self._mirror.request_upload()

  def upload(self) -> None:
    if self._mirror is not None and self._may_upload():
      self._mirror.upload()

  def _may_upload(self) -> bool:
    return self._lease is not None and not self._lease.is_lost

  def discard(self) -> None:
    """Deletes the mirror after the background thread has ended, which must not see its files disappear."""
    if self._mirror is not None:
      self._mirror.close()
      shutil.rmtree(self.path, ignore_errors=True)

  def upload_after_error(self) -> None:
    """Uploads what a run has written that ends with an error, which remains the one to report."""
    try:
      call_within(LAST_UPLOAD_SECONDS, self.upload)
    except (UserError, OSError) as error:
      log.warning("%s; the last files of this run remain in %s", printable(error), self.path)

  def explain(self, text: str) -> str:
    """Names the workdir in place of its mirror, except where the disk of the mirror is the problem."""
    return re.sub(re.escape(str(self.path)) + r"(?! is not writable)", lambda _: self.address, text)


@contextlib.contextmanager
def open_run_folder(workdir: pathlib.PurePath, scratch_dir: str = "") -> Iterator[RunFolder]:
  """Opens the folder of a run for a `with` block. All processes must enter it.

  One on disk is neither locked nor created; one in a bucket is locked, downloaded, and uploaded at the end.

  Args:
    workdir: a local path, or `epath.Path` of a bucket.
    scratch_dir: where mirrors are; "": in the system's temporary folder.

  Raises:
    UserError: on all processes; see `check_checkpoint_path`, and `BucketFolder.open` and `pull`.
  """
  workdirs = allgather_text(str(workdir))
  if len(set(workdirs)) > 1 and any(map(storage.is_remote, workdirs)):
    raise UserError(f"--workdir differs between processes ({', '.join(workdirs)}); start all with the same")
  if not storage.is_remote(workdir):
    _on_all_processes(functools.partial(check_checkpoint_path, workdir, "--workdir"))
    yield RunFolder(pathlib.Path(workdir))
    return
  remote = storage.absolute(workdir)
  folder = BucketFolder(_scratch_path(remote, scratch_dir), remote)
  hosts = allgather_text(socket.gethostname())
  is_host_leader = hosts.index(hosts[jax.process_index()]) == jax.process_index()
  with contextlib.ExitStack() as stack:
    for step in (functools.partial(folder.open, stack, is_host_leader=is_host_leader), folder.pull):
      _on_all_processes(step)
    try:
      yield folder
      _on_all_processes(folder.upload)
    except UserError as error:
      folder.upload_after_error()
      raise UserError(folder.explain(str(error))) from error
    except BaseException:
      folder.upload_after_error()
      raise
    folder.discard()  # the run is finished


def _on_all_processes(action: Callable[[], None]) -> None:
  """Runs an action on all processes at the same time, and raises on all where one fails."""
  problem = ""
  try:
    action()
  except UserError as error:
    problem = str(error)
  raise_on_all_processes(problem)


def _scratch_path(remote: epath.Path, scratch_dir: str) -> pathlib.Path:
  """Returns the folder of the mirror of a workdir, which is the same for all processes of a host and for restarts."""
  parent = pathlib.Path(scratch_dir).expanduser() if scratch_dir else pathlib.Path(tempfile.gettempdir())
  digest = hashlib.blake2b(str(remote).encode(), digest_size=8).hexdigest()
  return parent.absolute() / f"clipvip_jax_{os.getuid()}" / f"{remote.name}_{digest}"


def _create_scratch(path: pathlib.Path) -> None:
  """Creates the folder of a mirror, readable by its owner only.

  Raises:
    UserError: it cannot be created, belongs to another user, or cannot hold checkpoints.
  """
  check_checkpoint_path(path, "host.scratch_dir")
  try:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.mkdir(exist_ok=True, mode=0o700)
    owner = path.parent.stat().st_uid
  except OSError as error:
    raise UserError(f"{path} cannot be created ({error.strerror}); set host.scratch_dir to a local folder") from error
  if owner != os.getuid() or path.parent.is_symlink():
    raise UserError(f"{path.parent} belongs to another user; set host.scratch_dir to a local folder")
