"""Files of generated captions, as `clipvip_jax.caption` writes them: JSON lines with a header, named by a pattern.

A file begins with {"header": {"model": ..., "prompt": ..., ...}}. Its rows, {"id": ID, "split"?: SPLIT, "caption":
TEXT}, name the split if ids are unique within a split only; "caption": "" is that of a clip whose caption was left out.
"""

from __future__ import annotations

import json
import os
from typing import Any

from etils import epath

from clipvip_jax.data.engine import build_files
from clipvip_jax.data.engine.json_files import read_json_lines
from clipvip_jax.utils.errors import UserError

_PATTERN_CHARACTERS = "*?["
_SEPARATOR = "\0"  # no id contains it


def list_files(path: str) -> list[str]:
  """Returns the files that a path stands for.

  Args:
    path: a file; a folder, for its files *.jsonl; or a pattern such as captions/*.jsonl.

  Raises:
    UserError: a folder has no such files, or none match the pattern.
  """
  place = epath.Path(path)
  if place.is_dir():
    files = build_files.glob(place, "*.jsonl")
  elif any(character in place.name for character in _PATTERN_CHARACTERS) and not place.exists():
    files = build_files.glob(place.parent, place.name) if place.parent.is_dir() else []
  else:
    return [path]
  if not files:
    raise UserError(f"{path}: no files of texts; name a file, a folder with files *.jsonl, or a pattern of names")
  return [os.fspath(file) for file in files]


def clip_key(split: str, name: str) -> str:
  """Returns the key of a clip whose id is unique within its split only; its id if `split` is ""."""
  return f"{split}{_SEPARATOR}{name}" if split else name


def clip_name(key: str) -> str:
  """Returns the id in a key of `clip_key`."""
  return key.rpartition(_SEPARATOR)[2]


def header(row: Any) -> dict[str, Any] | None:
  """Returns the header that a row is; None for a row of a clip."""
  value = row.get("header") if isinstance(row, dict) and len(row) == 1 else None
  return value if isinstance(value, dict) else None


def read_headers(path: str) -> list[dict[str, Any]]:
  """Returns the different headers of the files that a path stands for, in order; none for files of other origin.

  Raises:
    UserError: a file cannot be read.
  """
  headers: dict[str, dict[str, Any]] = {}
  for file in list_files(path):
    if file.endswith(".jsonl") and (first := next(read_json_lines(file), None)) and (value := header(first[1])):
      headers.setdefault(json.dumps(value, sort_keys=True), value)
  return list(headers.values())
