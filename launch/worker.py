"""On a worker of a TPU slice: starts a run once, however often it is asked to, and waits for its end.

  python -m launch.worker FOLDER NUMBER COMMAND...

The run is a session of its own, so a connection that breaks leaves it alone; the same command then shows it again and
ends with its exit code. NUMBER says which start is meant: one that has ended is not started again, but another is.
In FOLDER: `lock`, which the run holds while it lives, `number`, `log`, and `exit`, its exit code.
"""

import fcntl
import pathlib
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import IO

from clipvip_jax.utils.cli import EXIT_TERMINATED

# Seconds between two looks at the log, and bytes of it for one who comes later.
_LOOK, _RECENT = 0.2, 4000
# "$0" is the file for the exit code. It appears whole, and before the lock is given back.
_NOTE_EXIT_CODE = '"$@"; echo $? > "$0.part"; mv "$0.part" "$0"'


def run(folder: pathlib.Path, number: str, command: Sequence[str]) -> int:
  """Starts `command` unless it runs, or ran as `number`; shows its log and gives its exit code."""
  folder.mkdir(parents=True, exist_ok=True)
  log = folder / "log"
  with (folder / "lock").open("a") as lock, log.open("ab") as written:
    shown = max(written.tell() - _RECENT, 0)
    if not _take(lock):
      print("a run is going on here, with the options that it was started with", flush=True)
    elif _read(folder / "number") != number:
      shown = written.tell()
      (folder / "exit").unlink(missing_ok=True)
      subprocess.Popen(
        ["sh", "-c", _NOTE_EXIT_CODE, str(folder / "exit"), *command],
        stdin=subprocess.DEVNULL,
        stdout=written,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        pass_fds=[lock.fileno()],
      )
    (folder / "number").write_text(number)
  _show_until_end(log, shown, folder / "lock")
  # Without a code the machine went down under the run: it goes on from its newest checkpoint, as after SIGTERM.
  return int(_read(folder / "exit") or EXIT_TERMINATED)


def _take(lock: IO[str]) -> bool:
  """Whether nothing runs. Tried for a second, since who waits for the end holds the lock for a moment as well."""
  for _ in range(10):
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
      return True
    except BlockingIOError:
      time.sleep(0.1)
  return False


def _show_until_end(log: pathlib.Path, shown: int, lock: pathlib.Path) -> None:
  """Copies the log from byte `shown` on to standard output until nobody holds the lock."""
  with log.open("rb") as lines, lock.open("a") as held:
    lines.seek(shown)
    ended = False
    while not ended:
      try:
        fcntl.flock(held, fcntl.LOCK_SH | fcntl.LOCK_NB)
        ended = True  # what is written by now is all
      except BlockingIOError:
        time.sleep(_LOOK)
      sys.stdout.buffer.write(lines.read())
      sys.stdout.flush()


def _read(path: pathlib.Path) -> str:
  return path.read_text().strip() if path.exists() else ""


if __name__ == "__main__":
  sys.exit(run(pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3:]))
