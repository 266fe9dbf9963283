"""Advisory file locks between processes."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import time

import pytest

from clipvip_jax.utils.file_lock import LockHeldError, LocksUnsupportedError, file_lock, is_locked

HOLD = """
import pathlib, sys, time
from clipvip_jax.utils.file_lock import file_lock
with file_lock(pathlib.Path(sys.argv[1]), shared=sys.argv[2] == "shared"):
  print("held", flush=True)
  time.sleep(60)
"""


@pytest.fixture
def path(tmp_path):
  return tmp_path / "lock"


@pytest.fixture
def hold(path):
  """Starts another process that holds the lock."""
  processes = []

  def start(kind="exclusive"):
    process = subprocess.Popen([sys.executable, "-c", HOLD, path, kind], stdout=subprocess.PIPE, text=True)
    processes.append(process)
    assert process.stdout.readline() == "held\n"
    return process

  yield start
  for process in processes:
    process.kill()
    process.communicate()


def test_an_exclusive_lock_excludes_every_other(path, hold):
  holder = hold()
  for shared in (False, True):
    with pytest.raises(LockHeldError, match=f"{path} is locked"), file_lock(path, shared=shared):
      pytest.fail("acquired")
  assert is_locked(path)
  holder.send_signal(signal.SIGKILL)
  holder.wait()
  assert not is_locked(path)
  with file_lock(path):
    pass


def test_shared_locks_exclude_only_an_exclusive_one(path, hold):
  hold("shared")
  with file_lock(path, shared=True):
    pass
  assert not is_locked(path)
  with pytest.raises(LockHeldError), file_lock(path):
    pytest.fail("acquired")


def test_the_lock_is_released_after_an_error(path):
  with pytest.raises(ZeroDivisionError), file_lock(path):
    _ = 1 / 0
  with file_lock(path), pytest.raises(LockHeldError), file_lock(path):
    pytest.fail("acquired twice")


def test_waits_until_the_timeout(path, hold):
  holder = hold()
  start = time.monotonic()
  with pytest.raises(LockHeldError), file_lock(path, timeout=0.3):
    pytest.fail("acquired")
  assert time.monotonic() - start >= 0.3
  holder.kill()
  with file_lock(path, timeout=30):
    pass


def test_the_file_keeps_its_contents(path):
  path.write_text("holder")
  with file_lock(path) as file:
    file.seek(0)
    assert file.read() == "holder"
  assert path.read_text() == "holder"


def test_a_child_process_inherits_the_lock(path):
  with file_lock(path) as file:
    child = subprocess.Popen(["sleep", "60"], pass_fds=[file.fileno()])
  assert is_locked(path)
  child.kill()
  child.wait()
  assert not is_locked(path)


@pytest.mark.parametrize(("number", "kind"), [(errno.ENOLCK, LocksUnsupportedError), (errno.EIO, OSError)])
def test_file_systems_without_locks_are_told_from_other_errors(path, monkeypatch, number, kind):
  def flock(*_):
    raise OSError(number, os.strerror(number))

  monkeypatch.setattr(fcntl, "flock", flock)
  with pytest.raises(OSError, match=os.strerror(number)) as raised, file_lock(path):
    pytest.fail("acquired")
  assert type(raised.value) is kind and raised.value.errno == number
