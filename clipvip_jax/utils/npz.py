"""Arrays and texts in one .npz file: equal contents are equal files, and what is read is not trusted."""

import pathlib
import zipfile
from collections.abc import Mapping, Sequence

import numpy as np

from clipvip_jax.utils import atomic_write
from clipvip_jax.utils.errors import UserError

_EPOCH = (1980, 1, 1, 0, 0, 0)  # in the zip in place of the time


def write(path: pathlib.Path, contents: Mapping[str, np.ndarray | Sequence[str]]) -> None:
  """Writes the file, whole or not at all.

  Args:
    path: its folder must exist.
    contents: arrays and lists of texts by name.

  Raises:
    UserError: it cannot be written.
  """
  try:
    with atomic_write.atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
      for name, value in contents.items():
        array = value if isinstance(value, np.ndarray) else _from_texts(value)
        with archive.open(zipfile.ZipInfo(f"{name}.npy", _EPOCH), "w", force_zip64=True) as member:
          np.lib.format.write_array(member, array, allow_pickle=False)
  except OSError as error:
    raise UserError(f"{path} cannot be written: {error.strerror or error}") from error


def read(
  path: pathlib.Path, arrays: Sequence[str], texts: Sequence[str], what: str
) -> tuple[dict[str, np.ndarray], dict[str, list[str]]]:
  """Reads a file that holds these arrays, of any shape and type but none that is unpickled, and these lists of texts.

  Args:
    path: a file that is there.
    arrays: their names.
    texts: likewise.
    what: "index of videos", for messages.

  Raises:
    UserError: it is no such file.
  """
  try:
    _check_stored(path)
    with np.load(path, allow_pickle=False) as file:
      found = {name: file[name] for name in (*arrays, *texts)}
  except Exception as error:  # a damaged zip provokes many kinds
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    raise UserError(f"{path} is no {what}: {reason}") from error
  if any(found[name].dtype.kind != "U" or found[name].ndim != 1 for name in texts):
    raise UserError(f"{path} is no {what}: names are no texts")
  if any(not found[name].itemsize and found[name].size for name in texts):  # any number of them, in no bytes
    raise UserError(f"{path} is no {what}: names are empty")
  try:
    lists = {name: [str(text) for text in found[name]] for name in texts}
  except (SystemError, ValueError) as error:  # numbers that are no characters
    raise UserError(f"{path} is no {what}: names are no texts") from error
  return {name: found[name] for name in arrays}, lists


def _check_stored(path: pathlib.Path) -> None:
  """Refuses a small file that unpacks to a large one."""
  with zipfile.ZipFile(path) as archive:
    if sum(member.file_size for member in archive.infolist()) > path.stat().st_size:
      raise ValueError("its arrays are compressed")


def _from_texts(texts: Sequence[str]) -> np.ndarray:
  return np.array(texts, dtype=np.str_) if texts else np.zeros(0, "<U1")
