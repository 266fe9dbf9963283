"""Readers of JSON and JSON lines files of annotations, and the keys under which they store ids and texts."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from typing import Any

from etils import epath

from clipvip_jax.utils.errors import UserError


@dataclasses.dataclass(frozen=True)
class RowKeys:
  """Accepted keys of a row. If a row has several, the first one is used."""

  ids: tuple[str, ...]
  texts: tuple[str, ...]


# Rows of retrieval annotations: a clip with its texts.
ANNOTATION_KEYS = RowKeys(("clip_id", "video", "video_id"), ("text", "caption", "description", "sentences"))
# Rows of lookup files: one text for a clip of other annotations.
LOOKUP_KEYS = RowKeys(("image_id", "clip_id", "video_id", "id"), ("caption", "text", "subtitle"))


def id_and_text(row: Any, keys: RowKeys, where: str) -> tuple[Any, Any]:
  """Returns the unchecked id and text of a row.

  Args:
    row: A parsed JSON value.
    keys: The accepted keys.
    where: Location of the row, for the error message.

  Raises:
    UserError: The row is not an object with an id and a text.
  """
  if isinstance(row, dict):
    ids = [row[key] for key in keys.ids if key in row]
    texts = [row[key] for key in keys.texts if key in row]
    if ids and texts:
      return ids[0], texts[0]
  raise UserError(
    f"{where}: expected an object with one of {', '.join(keys.ids)} and one of {', '.join(keys.texts)},"
    f" got {str(row)[:80]!r}"
  )


def read_json(path: str) -> Any:
  """Reads a JSON file.

  Raises:
    UserError: The file does not exist, is unreadable, or is not valid JSON.
  """
  try:
    return json.loads(epath.Path(path).read_text(encoding="utf-8-sig"))
  except (OSError, ValueError, RecursionError) as error:
    raise UserError(f"{path}: cannot be read as JSON ({getattr(error, 'strerror', None) or error})") from error


def read_json_lines(path: str) -> Iterator[tuple[int, dict[str, Any]]]:
  """Yields (line number, object) of a JSON lines file; skips empty lines.

  Raises:
    UserError: The file is unreadable, or a line is not a JSON object.
  """
  try:
    with epath.Path(path).open("rb") as file:
      for number, line in enumerate(file, 1):
        if not (stripped := line.removeprefix(b"\xef\xbb\xbf").strip()):
          continue
        try:
          row = json.loads(stripped)
        except (ValueError, RecursionError) as error:
          raise UserError(f"{path}, line {number}: invalid JSON ({error}): {stripped[:60]!r}") from error
        if not isinstance(row, dict):
          raise UserError(f"{path}, line {number}: expected a JSON object {{...}}, got {stripped[:60]!r}")
        yield number, row
  except OSError as error:
    raise UserError(f"{path}: cannot be read ({error.strerror})") from error
