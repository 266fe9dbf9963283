"""Lists of the videos of a split: text with one name per line, or a NumPy array of names."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping

import numpy as np
from etils import epath

from clipvip_jax.data.engine.annotations import Clip, check_name, clip_key
from clipvip_jax.data.engine.text_files import read_lines
from clipvip_jax.utils.bucket_copies import fetch_file
from clipvip_jax.utils.errors import UserError, first_line


def listed_clips(path: epath.Path, clips: Mapping[str, Clip]) -> list[Clip]:
  """Returns the clips that a list names, in the order of the annotations.

  Args:
    path: the list, in any spelling of the names; an array (.npy) is read without unpickling.
    clips: those of the annotations by `clip_key`.

  Returns:
    Its clips, and after them one without texts, which is skipped and counted, for each name without annotations.

  Raises:
    UserError: the list is unreadable or invalid.
  """
  listed = {clip_key(check_name(name, where)): where for where, name in _read_names(path)}
  missing = [Clip(key, where, []) for key, where in listed.items() if key not in clips]
  return [*(clip for key, clip in clips.items() if key in listed), *missing]


def _read_names(path: epath.Path) -> Iterator[tuple[str, str]]:
  """Yields (location, name)."""
  if path.suffix == ".npy":
    yield from ((f"{path}, entry {number}", name) for number, name in enumerate(_read_array(path), 1))
    return
  for number, line in enumerate(read_lines(path), 1):
    if name := line.strip():
      yield f"{path}, line {number}", name


def _read_array(path: epath.Path) -> list[str]:
  try:
    names = np.lib.format.read_array(io.BytesIO(fetch_file(path).read_bytes()), allow_pickle=False)
    if names.ndim != 1 or names.dtype.kind not in "US":
      raise ValueError(f"{names.dtype} {list(names.shape)}")
    return names.astype(str).tolist()
  except Exception as error:  # NumPy parses the header as Python, which raises many types
    raise UserError(
      f"{path}: cannot be read as an array of names ({first_line(error)}); restore the file, or write a text file with"
      " one name per line"
    ) from error
