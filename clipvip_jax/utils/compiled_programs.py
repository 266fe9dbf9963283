"""Persistent cache of compiled programs for commands without a workdir of a run."""

import os
import pathlib

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
