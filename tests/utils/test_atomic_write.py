"""Atomic writes, and what counts as an error of the disk."""

import errno
import os
import pathlib
import signal
import subprocess
import sys

import pytest

from clipvip_jax.utils.atomic_write import atomic_path, disk_error_reason, output_path
from clipvip_jax.utils.errors import UserError

KILLED = """
import os, pathlib, signal, sys
from clipvip_jax.utils.atomic_write import atomic_path
with atomic_path(pathlib.Path(sys.argv[1])) as temporary:
  temporary.write_text("new")
  os.kill(os.getpid(), signal.SIGKILL if len(sys.argv) == 2 else signal.SIGSTOP)
"""


def test_replaces_the_file_on_success(tmp_path):
  path = tmp_path / "file"
  path.write_text("old")
  with atomic_path(path) as temporary:
    temporary.write_text("new")
    assert path.read_text() == "old"
    assert temporary.parent == tmp_path  # in the same file system, or replacing is not atomic
  assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


def test_keeps_the_old_file_on_an_error(tmp_path):
  path = tmp_path / "file"
  path.write_text("old")
  with pytest.raises(ZeroDivisionError), atomic_path(path) as temporary:
    temporary.write_text("half")
    _ = 1 / 0
  assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
  ("name", "error"), [("folder", IsADirectoryError), ("absent/file", FileNotFoundError), ("x/y", NotADirectoryError)]
)
def test_errors_name_the_file_in_place_of_the_temporary_one(tmp_path, name, error):
  (tmp_path / "folder").mkdir()
  (tmp_path / "x").touch()
  with pytest.raises(error) as raised, atomic_path(tmp_path / name) as temporary:
    temporary.write_text("new")
  assert raised.value.filename == str(tmp_path / name) and raised.value.filename2 is None
  assert {path.name for path in tmp_path.iterdir()} == {"folder", "x"}


def test_errors_of_other_files_are_passed(tmp_path):
  with pytest.raises(FileNotFoundError) as raised, atomic_path(tmp_path / "file"):
    (tmp_path / "other").read_text()
  assert raised.value.filename == str(tmp_path / "other")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_errors_of_a_full_disk_which_name_no_file_name_it(tmp_path, number):
  with pytest.raises(OSError) as raised, atomic_path(tmp_path / "file"):
    raise OSError(number, os.strerror(number))
  assert (raised.value.errno, raised.value.filename) == (number, str(tmp_path / "file"))
  remedy = "name another file" if number == errno.EFBIG else "free space, or name another file"
  message = rf"--html=.*file cannot be written \(.*\); {remedy}"
  with pytest.raises(UserError, match=message), output_path(tmp_path / "file", "--html"):
    raise OSError(number, os.strerror(number))
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["file", "[x]*.html", "x" * 250 + ".html"])
def test_keeps_the_old_file_when_killed_and_the_next_write_deletes_the_temporary_one(tmp_path, name):
  path, other = tmp_path / name, tmp_path / f".{name[:40]}.other.1.0123abcd.tmp"
  path.write_text("old")
  other.touch()
  assert subprocess.run([sys.executable, "-c", KILLED, path], check=False).returncode == -signal.SIGKILL
  assert path.read_text() == "old" and len(list(tmp_path.iterdir())) == 3
  with atomic_path(path) as temporary:
    temporary.write_text("new")
  assert path.read_text() == "new" and {*tmp_path.iterdir()} == {path, other}


def test_the_next_write_keeps_the_temporary_file_of_a_process_that_is_suspended(tmp_path):
  path = tmp_path / "file"
  with subprocess.Popen([sys.executable, "-c", KILLED, path, "stop"]) as process:
    assert os.WIFSTOPPED(os.waitpid(process.pid, os.WUNTRACED)[1])
    with atomic_path(path) as temporary:
      temporary.write_text("newer")
    assert path.read_text() == "newer" and len(list(tmp_path.iterdir())) == 2
    process.send_signal(signal.SIGCONT)
    assert process.wait() == 0
  assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["x" * 250 + ".html", "\u00e9" * 124 + ".html", "\U0001f600" * 62 + ".json"])
def test_the_longest_names_are_written(tmp_path, name):
  with atomic_path(tmp_path / name) as temporary:
    temporary.write_text("new")
  assert [path.name for path in tmp_path.iterdir()] == [name]


def test_two_writers_do_not_share_a_temporary_file(tmp_path):
  with atomic_path(tmp_path / "file") as first, atomic_path(tmp_path / "file") as second:
    assert first != second
    first.write_text("first")
    second.write_text("second")
  assert (tmp_path / "file").read_text() == "first"  # the one that was committed last


def _raised_from(error, cause):
  try:
    raise error from cause
  except Exception as raised:
    return raised


FULL = "No space left on device"


@pytest.mark.parametrize(
  ("error", "reason"),
  [
    (OSError(errno.ENOSPC, FULL), FULL),
    (OSError(errno.EROFS, "x"), "Read-only file system"),
    (OSError(errno.EIO, "x"), "Input/output error"),
    (ValueError("writing failed [os_error_code='28' ...]"), FULL),  # TensorStore
    (RuntimeError(f"RESOURCE_EXHAUSTED: /data/x; {FULL}"), FULL),  # TensorFlow
    (RuntimeError("UNKNOWN: Disk quota exceeded; error writing to file"), "Disk quota exceeded"),  # ArrayRecord
    (RuntimeError("File too large"), "File too large"),
    (_raised_from(ValueError("could not save"), OSError(errno.EDQUOT, "x")), "Disk quota exceeded"),
    (OSError(errno.ENOENT, "No such file or directory"), ""),
    (OSError(errno.EACCES, "Permission denied"), ""),
    (ValueError("writing failed [os_error_code='2' ...]"), ""),
    (RuntimeError("INTERNAL: Input/output error"), ""),
    (_raised_from(ValueError("one"), KeyError("two")), ""),
    (None, ""),
  ],
  ids=str,
)
def test_disk_error_reason(error, reason):
  assert disk_error_reason(error) == reason


@pytest.mark.skipif(not pathlib.Path("/dev/full").exists(), reason="needs /dev/full, which only Linux has")
def test_a_real_full_disk():
  with pytest.raises(OSError) as raised, pathlib.Path("/dev/full").open("w") as file:
    file.write("x")
    file.flush()
  assert disk_error_reason(raised.value) == FULL
