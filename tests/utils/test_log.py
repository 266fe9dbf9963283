"""The logger, and untrusted text in messages."""

import errno
import io
import logging
import os
import subprocess
import sys

import pytest

from clipvip_jax.utils.log import is_not_disk_error, is_output_closed, list_first, printable


@pytest.mark.parametrize(
  ("text", "shown"),
  [
    ("plain", "plain"),
    ("größe 動画 🎬", "größe 動画 🎬"),
    ("a\nb\tc", "a\\nb\\tc"),
    ("\x1b[31mred", "\\x1b[31mred"),
    ("\x9b31mred", "\\x9b31mred"),
    ("abc\u202egpj.exe", "abc\\u202egpj.exe"),
    ("a\u2028b", "a\\u2028b"),
    ("not \udcff UTF-8", "not \\udcff UTF-8"),
    (12, "12"),
    (None, "None"),
  ],
)
def test_printable_escapes_control_characters(text, shown):
  assert printable(text) == shown
  assert len(shown.splitlines()) == 1
  shown.encode()


@pytest.mark.parametrize("limit", [10, 160])
def test_printable_cuts_at_the_limit(limit):
  assert printable("a" * limit, limit=limit) == "a" * limit
  assert printable("a" * (limit + 1), limit=limit) == "a" * (limit - 3) + "..."
  assert len(printable("\x1b" * limit, limit=limit)) == limit


def test_the_first_values_are_listed_and_the_others_counted():
  assert list_first([], 2) == ""
  assert list_first(["a", "b"], 2) == "a, b"
  assert list_first(iter("abcd"), 2, "; ") == "a; b and 2 more"


@pytest.mark.parametrize(("warnings_only", "lines"), [(False, ["a step", "a warning"]), (True, ["a warning"])])
def test_info_lines_can_be_omitted(warnings_only, lines):
  code = f"""
import logging
from absl import logging as absl_logging
from clipvip_jax.utils.log import configure_logging, log
for _ in range(2):  # twice configured, each line is printed once
  configure_logging(warnings_only={warnings_only})
log.info("a step")
log.warning("a warning")
absl_logging.info("library")
"""
  done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
  assert [line.partition(" ")[2] for line in done.stdout.splitlines()] == lines and not done.stderr


@pytest.mark.parametrize(
  ("error", "logged"),
  [
    (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), False),
    (ValueError("Error writing x [os_error_code='28' No space left on device]"), False),
    (ValueError("another"), True),
    (None, True),
  ],
)
def test_tracebacks_of_refused_writes_are_not_logged_by_libraries(error, logged):
  exc_info = (type(error), error, None) if error else None
  record = logging.LogRecord("absl", logging.ERROR, "future.py", 1, "thread failed", None, exc_info)
  assert is_not_disk_error(record) == logged


def test_an_output_without_a_file_is_not_closed(monkeypatch):
  monkeypatch.setattr(sys, "stdout", io.StringIO())
  assert not is_output_closed()
