"""Tables with a header: CSV, also with semicolons or tabs in place of commas, as spreadsheets write it."""

from __future__ import annotations

import csv
import itertools
import os
import posixpath
import re
from collections.abc import Iterable, Iterator

from clipvip_jax.data.engine import bad_lines
from clipvip_jax.data.engine.text_files import read_lines
from clipvip_jax.utils.errors import UserError

SUFFIXES = (".csv", ".tsv")
_SEPARATORS = ",;\t"
_NAMED_SEPARATOR = re.compile(r'"?sep=(.)"?\s*')  # a line before the header, which Excel obeys
_MAX_CELL = 2**24  # characters, as of the transcript of a long video; the default of `csv` is 2**17


def is_table(path: str | os.PathLike[str], column: str) -> bool:
  """Returns whether a list, which may also be text, is a table: a .csv, or a .tsv with a header.

  Args:
    path: The file.
    column: A column that the header of a table has.

  Raises:
    UserError: The file is unreadable.
  """
  suffix = posixpath.splitext(os.fspath(path))[1].lower()
  if suffix != ".tsv":
    return suffix in SUFFIXES
  header = next((line for line in read_lines(path) if line.strip()), "")
  return any(column in _header_cells(header, separator) for separator in _SEPARATORS)


def read_csv(path: str | os.PathLike[str], *columns: str) -> Iterator[tuple[str, dict[str, str]]]:
  """Yields (location, row) of a table. Spaces around cells, columns without a name and empty rows are left out.

  Args:
    path: the file.
    *columns: required columns.

  Raises:
    UserError: the file is unreadable or invalid, lacks a required column, or has several columns of a name.
  """
  csv.field_size_limit(_MAX_CELL)
  lines, separator = _find_separator(read_lines(path), {*columns})
  reader = csv.reader(lines, strict=True, skipinitialspace=True, delimiter=separator)
  header: list[str] = []
  while True:
    where = f"{path}, line {reader.line_num + 1}"  # the first line of the row, which may have several
    try:
      row = next(reader, None)
    except csv.Error as error:
      raise UserError(f"{where}: invalid CSV ({error}); correct it") from error
    cells = [cell.strip() for cell in row or []]
    if not header and (row is None or any(cells)):
      header = _check_header(cells, columns, where)
    elif row is None:
      return
    elif any(cells):
      match = bad_lines.attempt(_match_cells, cells, header, where)
      if match is not None:
        yield where, match


def _find_separator(lines: Iterator[str], columns: set[str]) -> tuple[Iterator[str], str]:
  """Returns the lines, and what separates cells in the first that is not empty: most of the columns are then in it."""
  start: list[str] = []
  for line in lines:
    start.append(line)
    if line.strip():
      break
  header = start[-1] if start else ""
  if named := _NAMED_SEPARATOR.fullmatch(header):
    return itertools.chain([*start[:-1], "\n"], lines), named[1]
  found = {separator: columns & _header_cells(header, separator) for separator in _SEPARATORS}
  return itertools.chain(start, lines), max(_SEPARATORS, key=lambda separator: len(found[separator]))


def _header_cells(header: str, separator: str) -> set[str]:
  return {cell.strip(' "\r\n') for cell in header.split(separator)}


def _check_header(header: list[str], columns: Iterable[str], where: str) -> list[str]:
  if missing := [name for name in columns if name not in header]:
    raise UserError(f"{where}: no column {', '.join(missing)}; the file has {', '.join(filter(None, header))}")
  if repeated := sorted({name for name in header if name and header.count(name) > 1}):
    raise UserError(f"{where}: several columns {', '.join(repeated)}; give each column its own name")
  return header


def _match_cells(cells: list[str], header: list[str], where: str) -> dict[str, str]:
  if len(cells) < len(header) or any(cells[len(header) :]):
    raise UserError(f"{where}: expected {len(header)} columns ({', '.join(header)}), got {len(cells)}")
  return {name: cell for name, cell in zip(header, cells, strict=False) if name}
