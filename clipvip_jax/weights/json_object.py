"""JSON of files next to weights and of their headers, without repeated keys."""

import collections
import json
import os
import pathlib
from typing import Any

from clipvip_jax.utils import placeholder_files
from clipvip_jax.utils.errors import UserError


def exists(path: pathlib.Path) -> bool:
  """Returns whether there is a file of this name.

  Raises:
    UserError: something else has the name, as a link to a file that was not downloaded; ignored, it would silently
      leave its values to conventions.
  """
  if not path.is_file() and os.path.lexists(path):
    raise UserError(f"{path} is not a file, but a folder or a broken link; remove it, or restore the file")
  return path.is_file()


def read(path: pathlib.Path) -> Any:
  """Parses a file of JSON in UTF-8.

  Raises:
    UserError: it cannot be read, or is a placeholder of a failed download; the message does not name the file.
    ValueError, RecursionError: as of `parse`.
  """
  try:
    content = path.read_bytes()
  except OSError as error:
    raise UserError(f"the file cannot be read ({error.strerror}); check its permissions and disk") from error
  if placeholder := placeholder_files.describe(content):
    raise UserError(f"this is {placeholder}")
  return parse(content.decode("utf-8"))


def parse(text: str | bytes) -> Any:
  """Parses JSON.

  Raises:
    ValueError: it is invalid, or an object has a key twice, of which Python would keep the last.
    RecursionError: it is nested too deeply.
  """
  return json.loads(text, object_pairs_hook=_unique_keys)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  entries = dict(pairs)
  if len(entries) != len(pairs):
    name, _ = collections.Counter(name for name, _ in pairs).most_common(1)[0]
    raise ValueError(f"contains '{name}' twice")
  return entries
