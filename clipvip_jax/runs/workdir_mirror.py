"""A local folder that mirrors the small files of a workdir in a bucket: all but checkpoints and compiled programs.

Files are appended to and replaced locally, and uploaded as a whole. What the bucket holds is what a restart finds, on
any host; the local folder may be lost at any time.
"""

import contextlib
import itertools
import pathlib
import re
import shutil
import tempfile
import threading

from etils import epath

from clipvip_jax.runs.workdir_lock import NAME as LOCK
from clipvip_jax.utils import transfers
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import log, printable

UPLOAD_SECONDS = 5.0  # between uploads in the background
_EXCLUDED = re.compile(rf"(checkpoints|corrupt_checkpoints|compiled)(/.*)?|{LOCK}|(.*/)?\.[^/]*\.tmp")
_LOCAL = re.compile(r"stack_traces_process_\d+\.txt")  # written when a process is aborted, and uploaded by the next one
_LAST = "results.json"  # shows that a run is finished
_FileState = tuple[int, int]  # size in bytes, modification time in ns


class WorkdirMirror:
  """Local folder of the files of a workdir in a bucket. One thread uploads them; others may write them meanwhile."""

  def __init__(self, local: pathlib.Path, remote: epath.Path):
    """Args: `local` is an existing folder that no other run uses, `remote` the workdir."""
    self._local, self._remote = local, remote
    self._uploaded: dict[str, _FileState] = {}
    self._mutex, self._wake, self._closed = threading.Lock(), threading.Event(), threading.Event()
    self._thread = threading.Thread(target=self._upload_when_requested, name="workdir uploads", daemon=True)
    self._thread.start()

  def pull(self) -> None:
    """Replaces the local files by those of the bucket.

    Raises:
      UserError: the bucket cannot be read.
      OSError: the folder cannot be written.
    """
    with self._mutex:
      names = [name for name in transfers.list_names(self._remote) if not _EXCLUDED.fullmatch(name)]
      for name in self._files().keys() - set(names):
        if not _LOCAL.fullmatch(name):
          (self._local / name).unlink()
      transfers.download_folder(self._remote, self._local, set(names).__contains__)
      self._uploaded = {name: state for name, state in self._files().items() if name in names}

  def request_upload(self) -> None:
    """Makes the background thread upload what has changed, soon. Failures are logged, and repaired by later uploads."""
    self._wake.set()

  def upload(self) -> None:
    """Uploads the files that have changed since their last upload. Deletes none: a cleaner may have removed local ones.

    Raises:
      UserError: the bucket cannot be written, or the folder was deleted.
      OSError: a file cannot be read.
    """
    with self._mutex, tempfile.TemporaryDirectory(prefix="clipvip_jax_upload_") as temporary:
      if not self._local.is_dir():  # deleted by a cleaner of temporary files: the bucket keeps its files
        raise UserError(f"{self._local} was deleted during this run; set host.scratch_dir to a folder that is kept")
      files = self._files()
      for name in sorted(files, key=lambda name: (name == _LAST, name)):
        if files[name] != self._uploaded.get(name):
          with contextlib.suppress(FileNotFoundError):  # a tracker may have deleted it
            copy = _snapshot(self._local / name, pathlib.Path(temporary) / "copy")
            transfers.upload(copy, self._remote / name)
            self._uploaded[name] = files[name]

  def close(self) -> None:
    """Ends the thread, without an upload."""
    self._closed.set()
    self._wake.set()
    self._thread.join()

  def _files(self) -> dict[str, _FileState]:
    """Returns the state of all files that are mirrored, by name relative to the folder."""
    states = {}
    mirrored = [path for path in self._local.iterdir() if not _EXCLUDED.fullmatch(path.name)]
    for path in itertools.chain(mirrored, *(path.rglob("*") for path in mirrored)):
      name = path.relative_to(self._local).as_posix()
      if not _EXCLUDED.fullmatch(name) and path.is_file() and not path.is_symlink():
        with contextlib.suppress(FileNotFoundError):
          stat = path.stat()
          states[name] = stat.st_size, stat.st_mtime_ns
    return states

  def _upload_when_requested(self) -> None:
    while True:
      self._wake.wait()
      if self._closed.is_set():
        return
      self._wake.clear()
      try:
        self.upload()
      except (UserError, OSError) as error:
        log.warning("%s; the files of this run are uploaded later", printable(error))
      self._closed.wait(UPLOAD_SECONDS)


def _snapshot(path: pathlib.Path, copy: pathlib.Path) -> pathlib.Path:
  """Copies a file that may grow meanwhile; of one with lines, complete ones only."""
  shutil.copyfile(path, copy)
  if path.suffix == ".jsonl":
    content = copy.read_bytes()
    copy.write_bytes(content[: content.rfind(b"\n") + 1])
  return copy
