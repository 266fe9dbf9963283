"""Readers of JSON and JSON lines files of annotations, and the keys under which they store ids and texts."""

from __future__ import annotations

import codecs
import dataclasses
import json
from collections.abc import Iterator
from typing import Any

from clipvip_jax.data.engine import bad_lines
from clipvip_jax.data.engine.text_files import decode
from clipvip_jax.utils.bucket_copies import fetch_file
from clipvip_jax.utils.compression import check_encoding
from clipvip_jax.utils.errors import UserError

_JSON_LINES = "write JSON lines, one object a line (jq -c '.[]' LIST.json > LINES.jsonl)"


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
    row: a parsed JSON value.
    keys: the accepted keys.
    where: location of the row, for the error message.

  Raises:
    UserError: the row is not an object with an id and a text.
  """
  if isinstance(row, dict):
    ids = [row[key] for key in keys.ids if key in row]
    texts = [row[key] for key in keys.texts if key in row]
    if ids and texts:
      return ids[0], texts[0]
  raise UserError(
    f"{where}: expected an object with one of {', '.join(keys.ids)} and one of {', '.join(keys.texts)},"
    f" got {excerpt(row)}"
  )


def parse_json(data: str | bytes) -> Any:
  """Parses JSON.

  Raises:
    ValueError: it is not valid, or an object has the same key twice with different values, of which Python keeps only
      the last.
    RecursionError: it is nested too deeply.
  """
  return json.loads(data, object_pairs_hook=_unique_keys)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  row = dict(pairs)
  if len(row) < len(pairs):
    for key, value in pairs:
      if value != row[key]:
        raise ValueError(f"the key {key!r} occurs twice; give each its own key, or put their values in a list")
  return row


def excerpt(value: Any) -> str:
  """Formats the beginning of a parsed value as JSON, for an error message."""
  try:
    return json.dumps(value, ensure_ascii=False, default=str)[:80]
  except (ValueError, RecursionError):  # an integer of thousands of digits, or thousands of levels
    return f"a value of type {type(value).__name__} that is too large to show"


def read_json(path: str) -> Any:
  """Reads a JSON file.

  Raises:
    UserError: the file does not exist, is unreadable, or is not valid JSON.
  """
  try:
    data = fetch_file(path).read_bytes()
    check_encoding(data, path)
    return parse_json(decode(data, path, "utf-8-sig"))
  except (OSError, ValueError, RecursionError) as error:
    raise UserError(f"{path}: cannot be read as JSON ({getattr(error, 'strerror', None) or error})") from error


def read_json_lines(path: str) -> Iterator[tuple[int, dict[str, Any]]]:
  """Yields (line number, object) of a JSON lines file; skips empty lines.

  Raises:
    UserError: the file is unreadable, or a line is not a JSON object.
  """
  try:
    with fetch_file(path).open("rb") as file:
      for number, line in enumerate(file, 1):
        if number == 1:
          check_encoding(line, path)
        if stripped := line.removeprefix(codecs.BOM_UTF8).strip():
          row = bad_lines.attempt(_parse_line, stripped, f"{path}, line {number}")
          if row is not None:
            yield number, row
  except OSError as error:
    raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def _parse_line(line: bytes, where: str) -> dict[str, Any]:
  try:
    row = parse_json(decode(line, where))
  except (ValueError, RecursionError) as error:
    hint = "" if line.startswith(b"{") and len(line) > 1 else f"; {_JSON_LINES}"
    raise UserError(f"{where}: invalid JSON ({error}): {excerpt(str(line[:60], errors='replace'))}{hint}") from error
  if not isinstance(row, dict):
    hint = f". The file is a list: {_JSON_LINES}" if isinstance(row, list) else ""
    raise UserError(f"{where}: expected a JSON object {{...}}, got {excerpt(row)}{hint}")
  return row
