"""Persistent cache of compiled programs: its folder in commands without a workdir of a run, and its errors."""

import contextlib
import glob
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
  """Logs the first program that the cache cannot read or write in one line, in place of JAX's warning for each.

  Programs that cannot be read are deleted: a full disk or a kill cuts files off, and JAX never writes them again.
  """
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
    match = re.match(r"Error (reading|writing) persistent compilation cache entry for '([^']*)': (.*)", str(message))
    if match is None:
      show(message, category, filename, lineno, file, line)
      return
    if match[1] == "reading":
      _delete_programs(match[2])
    if not reported:
      reported.append(match[0])
      verb, effect = (
        ("read", "it is compiled again") if match[1] == "reading" else ("saved", "later runs compile it again")
      )
      log.warning("a compiled program cannot be %s in the cache (%s); %s", verb, printable(match[3], 200), effect)

  warnings.showwarning = show_or_log


def _delete_programs(name: str) -> None:
  """Deletes the cached programs of a name: JAX's warning does not tell which of them cannot be read."""
  import jax

  if folder := jax.config.values["jax_compilation_cache_dir"]:
    with contextlib.suppress(OSError):  # a read-only cache
      for path in pathlib.Path(folder).glob(f"{glob.escape(name)}-*-cache"):
        path.unlink(missing_ok=True)
