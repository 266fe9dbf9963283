"""Paths of the local file system: spellings of the same file, and Unicode forms of names."""

import functools
import os
import pathlib
import posixpath
import unicodedata


def expand_user(path: str) -> str:
  """Expands ~ and ~USER at the start of a path; returns the path unchanged if that user does not exist."""
  try:
    return str(pathlib.Path(path).expanduser()) if path.startswith("~") else path
  except RuntimeError:
    return path


def real_path(path: str | os.PathLike[str], *, follow: bool = True) -> str:
  """Returns the absolute path without links and `..`, which is the same for all spellings of a file's path.

  Args:
    path: of a file or folder, which need not exist.
    follow: whether to resolve a link to the file itself, at the cost of a system call for each file.
  """
  folder, name = os.path.split(find_path(path) if follow else path)
  if name in ("", os.curdir, os.pardir):
    return os.path.realpath(path)
  real = posixpath.join(_real_folder(folder if folder.startswith("/") else f"{pathlib.Path.cwd()}/{folder}"), name)
  return os.path.realpath(real) if follow and os.path.islink(real) else real  # noqa: PTH114  # pathlib is slow


@functools.lru_cache(4096)
def _real_folder(folder: str) -> str:
  """Resolves a folder once, not for each of its files: that costs a system call per component."""
  return os.path.realpath(folder)


def find_path(path: str | os.PathLike[str]) -> str:
  """Returns the path of the existing file whose name is equal after Unicode normalization.

  macOS stores "é" as two characters (NFD), which annotations write as one (NFC). Returns `path` itself if it exists, or
  if no such file does.
  """
  path = os.fspath(path)
  if path.isascii() or os.path.lexists(path):
    return path
  folder, name = os.path.split(path)
  if folder == path or not name:
    return path
  folder = find_path(folder)
  try:
    names = _names_by_normal_form(folder, pathlib.Path(folder).stat().st_mtime_ns)
  except OSError:
    return path
  actual = names.get(normal_form(name))
  return path if actual is None else posixpath.join(folder, actual)


def normal_form(name: str) -> str:
  """Returns the NFC form of a name, in which equal names are equal strings."""
  return name if name.isascii() else unicodedata.normalize("NFC", name)


@functools.lru_cache(64)
def _names_by_normal_form(folder: str, modified_ns: int) -> dict[str, str]:
  del modified_ns  # part of the cache's key
  names = sorted((entry.name for entry in pathlib.Path(folder).iterdir()), reverse=True)
  return {normal_form(name): name for name in names}
