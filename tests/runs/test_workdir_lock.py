"""The lock that prevents two runs from writing to one workdir."""

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys

import pytest

from clipvip_jax.runs import workdir_lock
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import log

HOLD = "import pathlib, sys, time\nfrom clipvip_jax.runs import workdir_lock\n"
HOLD += "with workdir_lock.workdir_lock(pathlib.Path(sys.argv[1])):\n  print('held', flush=True)\n  time.sleep(60)\n"


@pytest.fixture
def holder(tmp_path):
  """Another process that holds the lock."""
  with subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True) as process:
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()


def test_a_workdir_in_use_is_refused_with_its_holder_until_that_is_killed(tmp_path, holder):
  words = rf"--workdir={tmp_path} is in use by process {holder.pid} on {socket.gethostname()}, started 20.*; "
  words += "wait until it ends, stop it, or choose another --workdir"
  for _ in range(2):  # a refusal changes nothing
    with pytest.raises(UserError, match=words), workdir_lock.workdir_lock(tmp_path):
      pytest.fail("two hold it")
  holder.send_signal(signal.SIGKILL)
  holder.wait()
  with workdir_lock.workdir_lock(tmp_path):
    assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()


def test_the_lock_is_released_after_an_error(tmp_path):
  with pytest.raises(ZeroDivisionError), workdir_lock.workdir_lock(tmp_path):
    _ = 1 / 0
  with (
    workdir_lock.workdir_lock(tmp_path),
    pytest.raises(UserError, match="in use by process"),
    workdir_lock.workdir_lock(tmp_path),
  ):
    pass


def test_a_holder_without_a_record_is_refused_too(tmp_path):
  with (tmp_path / "lock").open("w") as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    with (
      pytest.raises(UserError, match="in use by a process that has not yet recorded"),
      workdir_lock.workdir_lock(tmp_path),
    ):
      pass


def test_warns_and_continues_without_locks(tmp_path, monkeypatch, caplog):
  def without_locks(*_):
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

  monkeypatch.setattr(log, "propagate", True)
  monkeypatch.setattr(fcntl, "flock", without_locks)
  with workdir_lock.workdir_lock(tmp_path), workdir_lock.workdir_lock(tmp_path):
    pass
  assert "without locks" in caplog.text


def test_other_errors_of_the_file_system_are_raised(tmp_path, monkeypatch):
  def broken(*_):
    raise OSError(errno.EIO, os.strerror(errno.EIO))

  monkeypatch.setattr(fcntl, "flock", broken)
  with pytest.raises(OSError, match="Input/output"), workdir_lock.workdir_lock(tmp_path):
    pass


def test_the_lock_is_of_this_process_until_the_folder_is_moved_or_replaced(tmp_path):
  workdir = tmp_path / "run"
  workdir.mkdir()
  with workdir_lock.workdir_lock(workdir):
    workdir_lock.check_held(workdir)
    workdir.rename(tmp_path / "elsewhere")
    for lock in (None, "{}", json.dumps({"host": socket.gethostname(), "pid": os.getpid() + 1})):
      if lock is not None:
        workdir.mkdir(exist_ok=True)
        (workdir / "lock").write_text(lock)
      if lock == "{}":  # exists, and may be of this process
        workdir_lock.check_held(workdir)
      else:
        with pytest.raises(UserError, match=rf"--workdir={workdir} was moved, deleted or replaced.*Move it back"):
          workdir_lock.check_held(workdir)
