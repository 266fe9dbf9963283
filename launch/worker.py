"""Idempotent start of a run on a worker of a TPU slice; waits until the run ends.

  python -m launch.worker FOLDER NUMBER COMMAND...

The run is in a separate session, so it survives a broken connection: the same command attaches to it again and exits
with its exit code. NUMBER identifies the start: the same number never starts the run twice, a new number restarts it.
FOLDER contains `lock`, held by the run while it is alive, `number`, `log`, and `exit`, the run's exit code.
"""

import pathlib
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import IO, TextIO

from clipvip_jax.utils.cli import EXIT_TERMINATED
from clipvip_jax.utils.file_lock import LockHeldError, file_lock, is_locked

_POLL_SECONDS = 0.2
# Bytes of existing log that are printed when attaching to a run.
_TAIL_BYTES = 4000
# Processes that wait for a run probe its lock briefly, so a single attempt may fail although no run is alive.
_LOCK_SECONDS = 1.0
# Writes the exit code to the file "$0", atomically and before the lock is released.
_RECORD_EXIT_CODE = '"$@"; echo $? > "$0.part"; mv "$0.part" "$0"'


def run(folder: pathlib.Path, number: str, command: Sequence[str]) -> int:
  """Starts `command` unless a run is alive or `number` was already started, then prints its log until it ends.

  Returns:
    The exit code of the run; EXIT_TERMINATED if none was recorded because the run was killed.
  """
  folder.mkdir(parents=True, exist_ok=True)
  log = folder / "log"
  with log.open("ab") as output:
    start = max(output.tell() - _TAIL_BYTES, 0)
    try:
      with file_lock(folder / "lock", timeout=_LOCK_SECONDS) as lock:
        if _read(folder / "number") != number:
          start = output.tell()
          _start(folder, command, output, lock)
    except LockHeldError:
      print("a run is already running here, with the options of its start; attaching to it", flush=True)
    (folder / "number").write_text(number)
  _follow_log(log, start, folder / "lock")
  return int(_read(folder / "exit") or EXIT_TERMINATED)


def _start(folder: pathlib.Path, command: Sequence[str], output: IO[bytes], lock: TextIO) -> None:
  """Starts the run as a detached process that inherits the lock."""
  (folder / "exit").unlink(missing_ok=True)
  subprocess.Popen(
    ["sh", "-c", _RECORD_EXIT_CODE, str(folder / "exit"), *command],
    stdin=subprocess.DEVNULL,
    stdout=output,
    stderr=subprocess.STDOUT,
    start_new_session=True,
    pass_fds=[lock.fileno()],
  )


def _follow_log(log: pathlib.Path, start: int, lock: pathlib.Path) -> None:
  """Copies the log from byte `start` to standard output until the run ends."""
  with log.open("rb") as file:
    file.seek(start)
    ended = False
    while not ended:
      ended = not is_locked(lock)  # checked before reading, so that the last read reaches the end of the log
      sys.stdout.buffer.write(file.read())
      sys.stdout.flush()
      if not ended:
        time.sleep(_POLL_SECONDS)


def _read(path: pathlib.Path) -> str:
  return path.read_text().strip() if path.exists() else ""


if __name__ == "__main__":
  sys.exit(run(pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3:]))
