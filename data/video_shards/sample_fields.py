"""Fields of a sample of a tar file: texts, and spans of clips, by the names of where they are found.

A source is the extension of a text file (`txt`, `en.txt`), `json:FIELD` of KEY.json, `parquet:COLUMN` of the table
beside the tar file, or `span:FIELD` of an entry of the spans. FIELD may be a path, A.B; it applies to each element of a
list.
"""

from __future__ import annotations

import dataclasses
from typing import Any, BinaryIO

from etils import epath

from clipvip_jax.data.engine import tar_files
from clipvip_jax.data.engine.items import check_times, clean_texts
from clipvip_jax.data.engine.json_files import excerpt
from clipvip_jax.data.engine.tar_files import Span
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.local_paths import normal_form
from clipvip_jax.utils.storage import explain_errors
from clipvip_jax.utils.timestamps import parse_time

_KINDS = ("json", "parquet", "span")
_KEY_COLUMN = "key"  # of a table beside a tar file


@dataclasses.dataclass(frozen=True)
class Source:
  """Where a text is found.

  Attributes:
    kind: "json", "parquet", "span" or "file".
    name: field, column, or extension of a text file.
  """

  kind: str
  name: str

  def __str__(self) -> str:
    return self.name if self.kind == "file" else f"{self.kind}:{self.name}"


def parse_sources(text: str, flag: str) -> tuple[Source, ...]:
  """Parses a list of sources separated by commas, the first of which that has a text is used.

  Raises:
    UserError: a source is invalid.
  """
  sources = []
  for part in filter(None, (part.strip() for part in text.split(","))):
    kind, colon, name = part.rpartition(":")
    if (colon and kind not in _KINDS) or not name or part == "json":
      raise UserError(
        f"--{flag}={text}: {part!r} is unknown; use an extension such as txt, json:FIELD, parquet:COLUMN or span:FIELD"
      )
    sources.append(Source(kind or "file", name if kind else name.lower().lstrip(".")))
  return tuple(sources)


@dataclasses.dataclass
class Sample:
  """The annotations of one key.

  Attributes:
    file: the open tar file.
    members: {extension in lower case: member}.
    row: its row of the table beside the tar file.
  """

  file: BinaryIO
  members: dict[str, Span]
  row: dict[str, Any]
  _fields: dict[str, Any] | None = dataclasses.field(default=None, repr=False)

  @property
  def json_fields(self) -> dict[str, Any]:
    """Content of KEY.json; {} without one. Raises UserError if it is corrupt."""
    if self._fields is None:
      span = self.members.get("json")
      self._fields = {} if span is None else tar_files.read_object(self.file, span, "json")
    return self._fields

  def texts(self, sources: tuple[Source, ...], entry: dict[str, Any]) -> tuple[str, ...]:
    """Returns the texts of the first source that has any.

    Args:
      sources: the sources.
      entry: of the spans; {} without spans.

    Raises:
      UserError: a file is corrupt, or a value is not a text.
    """
    for source in sources:
      if texts := clean_texts(_flatten(self._value(source, entry)), str(source)):
        return texts
    return ()

  def spans(self, source: Source | None) -> list[Any]:
    """Returns the unchecked entries of the spans; without a source, one for the entire video.

    Raises:
      UserError: KEY.json is corrupt, or has no list of spans.
    """
    if source is None:
      return [{"start": None, "end": None}]
    entries = self._value(source, {})
    if not isinstance(entries, list):
      raise UserError(f"{source}: expected a list of [START, END] or {{start, end}}, got {excerpt(entries)}")
    return entries

  def _value(self, source: Source, entry: dict[str, Any]) -> Any:
    if source.kind == "file":
      span = self.members.get(source.name)
      return None if span is None else tar_files.read_text(self.file, span, source.name)
    if source.kind == "parquet":
      return self.row.get(source.name)
    return find_value(entry if source.kind == "span" else self.json_fields, source.name)


def find_value(value: Any, name: str) -> Any:
  """Returns the value at a path A.B of parsed JSON; None if there is none.

  A list gives the list of its elements' values. A key that contains dots is found as it is.
  """
  if not name:
    return value
  if isinstance(value, list):
    return [find_value(element, name) for element in value]
  if not isinstance(value, dict):
    return None
  if name in value:
    return value[name]
  head, _, rest = name.partition(".")
  return find_value(value.get(head), rest) if rest else None


def _flatten(value: Any) -> list[Any]:
  if isinstance(value, list):
    return [leaf for element in value for leaf in _flatten(element)]
  return [] if value is None else [value]


def parse_span(entry: Any, where: str) -> tuple[dict[str, Any], float | None, float | None]:
  """Returns (fields, start, end) of an entry of the spans, times in seconds.

  Args:
    entry: [START, END], or {"start": START, "end": END, other fields}; seconds, or texts HH:MM:SS.mmm.
    where: its location, for the error message.

  Raises:
    UserError: it is neither, or the end is not after the start.
  """
  fields = entry
  if isinstance(entry, list) and len(entry) == 2:
    fields = {"start": entry[0], "end": entry[1]}
  if not isinstance(fields, dict) or not {"start", "end"} <= fields.keys():
    raise UserError(f"{where}: expected [START, END] or {{start, end}}, got {excerpt(entry)}")
  start, end = check_times(_parse_seconds(fields["start"]), _parse_seconds(fields["end"]), where)
  return fields, start, end


def _parse_seconds(value: Any) -> Any:
  """Returns the seconds of a text HH:MM:SS.mmm; other values unchanged."""
  seconds = parse_time(value) if isinstance(value, str) else None
  return value if seconds is None else seconds


def read_table(path: epath.Path, columns: set[str]) -> dict[str, dict[str, Any]]:
  """Reads columns of the Parquet table beside a tar file.

  Args:
    path: the table, with a column `key`.
    columns: names of the columns; none: nothing is read.

  Returns:
    {key in NFC: {column: value}}.

  Raises:
    UserError: the table does not exist, is corrupt, or lacks a column.
  """
  if not columns:
    return {}
  import pyarrow
  from pyarrow import parquet

  try:
    with explain_errors(path), path.open("rb") as file:
      table = parquet.ParquetFile(file)
      if missing := sorted({_KEY_COLUMN, *columns} - {*table.schema_arrow.names}):
        raise UserError(f"{path}: no column {', '.join(missing)}; it has {', '.join(table.schema_arrow.names)}")
      rows = table.read(columns=[_KEY_COLUMN, *sorted(columns)]).to_pylist()
  except FileNotFoundError as error:
    raise UserError(f"{path}: no such file; put the table of the tar file here, or remove parquet:COLUMN") from error
  except (pyarrow.ArrowException, OSError) as error:
    raise UserError(f"{path}: cannot be read as Parquet ({error}); copy it again") from error
  return {normal_form(str(row.pop(_KEY_COLUMN))): row for row in rows}
