"""Persistent cache of compiled programs: its folder in commands without a workdir of a run, and its errors."""

import os
import pathlib
import re
import warnings
from typing import TextIO

from clipvip_jax.utils.log import log, printable

_VARIABLE = "JAX_COMPILATION_CACHE_DIR"


def keep_compiled_programs() -> None:
  """Makes JAX keep compiled programs in the user's cache folder, ~/.cache/clipvip_jax/compiled, for later processes.

  Must be called before JAX is imported. A folder that the environment names takes precedence; without a writable
  folder, programs are compiled again.
  """
  if _VARIABLE in os.environ:
    return
  try:
    cache = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    folder = pathlib.Path(cache) / "clipvip_jax" / "compiled"
    folder.mkdir(parents=True, exist_ok=True)
  except (OSError, RuntimeError):  # no home, or a read-only one
    return
  if os.access(folder, os.W_OK):
    os.environ[_VARIABLE] = str(folder)


def report_cache_errors() -> None:
  """Logs the first program that the cache cannot read or write in one line, in place of JAX's warning for each."""
  show = warnings.showwarning
  reported: list[str] = []

  def show_or_log(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
  ) -> None:
    match = re.match(r"Error (reading|writing) persistent compilation cache entry for '[^']*': (.*)", str(message))
    if match is None:
      show(message, category, filename, lineno, file, line)
    elif not reported:
      reported.append(match[0])
      verb, effect = (
        ("read", "it is compiled again") if match[1] == "reading" else ("saved", "later runs compile it again")
      )
      log.warning("a compiled program cannot be %s in the cache (%s); %s", verb, printable(match[2], 200), effect)

  warnings.showwarning = show_or_log
