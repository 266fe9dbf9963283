"""Patterns of tar files: {000..999}.tar as WebDataset writes them, {a,b}/*.tar, or any glob pattern."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Sequence

from etils import epath

from clipvip_jax.data.engine import build_files, tar_files
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.storage import explain_errors

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d{1,9})\.\.(\d{1,9})", re.ASCII)
_GLOB = re.compile(r"[*?\[]")
_MAX_NAMES = 1_000_000


def is_pattern(name: str) -> bool:
  """Returns whether a name has braces or is a glob pattern."""
  return bool(_BRACES.search(name) or _GLOB.search(name))


def expand_braces(pattern: str) -> list[str]:
  """Expands {FIRST..LAST}, with leading zeros kept, and {A,B,...}, as a shell does.

  Raises:
    UserError: braces hold something else, or there are more than a million names.
  """
  texts = _BRACES.split(pattern)  # alternately outside of braces and within
  choices = [_alternatives(text, pattern) if index % 2 else [text] for index, text in enumerate(texts)]
  if math.prod(map(len, choices)) > _MAX_NAMES:
    raise UserError(f"shards={pattern!r} names more than {_MAX_NAMES} files; use a glob pattern such as *.tar")
  return list(map("".join, itertools.product(*choices)))


def _alternatives(text: str, pattern: str) -> Sequence[str]:
  """Returns what braces stand for."""
  if numbers := _RANGE.fullmatch(text):
    first, last = int(numbers[1]), int(numbers[2])
    if not 0 <= last - first < _MAX_NAMES:
      raise UserError(f"shards={pattern!r}: {{{text}}} must count up, to at most {_MAX_NAMES} files")
    width = max(map(len, numbers.groups())) if any(end.startswith("0") for end in numbers.groups()) else 0
    return [f"{number:0{width}}" for number in range(first, last + 1)]
  if "," not in text:
    raise UserError(f"shards={pattern!r}: {{{text}}} is unknown; use {{000..999}} or {{a,b}}")
  return text.split(",")


def find_shards(raw_dir: epath.Path, pattern: str) -> list[epath.Path]:
  """Returns the tar files of a pattern, in its order; those of a glob pattern sorted.

  Args:
    raw_dir: folder of the tar files.
    pattern: relative to `raw_dir`, with braces or as for glob, or both; "": all tar files up to two folders below.

  Raises:
    UserError: a file that braces name does not exist, or no file matches.
  """
  if "://" in pattern or pattern.startswith(("/", "~")):
    raise UserError(f"shards={pattern!r}: patterns are relative; set --raw_dir to the folder and --shards to the rest")
  paths: dict[epath.Path, None] = {}
  with explain_errors(raw_dir, "--raw_dir"):
    for name in expand_braces(pattern) if pattern else tar_files.PATTERNS:
      matches = build_files.glob(raw_dir, name) if _GLOB.search(name) else [raw_dir / name]
      paths.update(dict.fromkeys(matches))
    missing = _missing_files(paths)
  if missing:
    raise UserError(
      f"{missing[0]}: no such file; {len(missing)} of the {len(paths)} tar files of {pattern!r} do not exist. Copy them"
      " again, or use a glob pattern such as *.tar for those that exist"
    )
  if not paths:
    raise UserError(f"{raw_dir}: no tar files match {pattern or ', '.join(tar_files.PATTERNS)}; correct --shards")
  return list(paths)


def _missing_files(paths: Iterable[epath.Path]) -> list[epath.Path]:
  """Returns the paths that do not exist. Lists each folder once: a request per file takes minutes in object stores."""
  names: dict[epath.Path, set[str]] = {}
  missing = []
  for path in paths:
    if path.parent not in names:
      names[path.parent] = {entry.name for entry in path.parent.iterdir()} if path.parent.is_dir() else set()
    if path.name not in names[path.parent]:
      missing.append(path)
  return missing
