"""Opens pages in a headless Chromium, where there is one."""

import functools
import pathlib
import re
import shutil
import subprocess
import tempfile

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_FLAGS = (
  "--headless",
  "--no-sandbox",  # tests may run as root, in a container
  "--disable-gpu",
  "--disable-dev-shm-usage",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
  "--enable-logging=stderr",
  "--v=0",
)
DARK = "--blink-settings=preferredColorScheme=0"


@functools.cache
def _binary():
  return next((path for name in _NAMES if (path := shutil.which(name))), None)


def opened(page: pathlib.Path | str, *flags: str) -> tuple[str, list[str]]:
  """(the document of a file or an address once loaded, what the console says of it); skips without a browser."""
  if _binary() is None:
    pytest.skip(f"no browser is installed: none of {', '.join(_NAMES)} is on PATH")
  with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
    address = page if isinstance(page, str) else page.resolve().as_uri()
    command = [_binary(), *_FLAGS, f"--user-data-dir={profile}", *flags, "--dump-dom", address]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=120)
  assert done.returncode == 0, done.stderr
  return done.stdout, re.findall(r"CONSOLE.*", done.stderr)
