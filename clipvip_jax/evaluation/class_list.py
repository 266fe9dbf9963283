"""Class lists and prompts of zero-shot classification.

A class list is text (one class per line, `NAME` or, on every line, `ID NAME`), CSV or TSV (columns name, and optionally
id and prompts, separated by |), JSON lines of {"name", "id"?, "prompts"?}, or JSON: a list of names or of such objects,
or an object {NAME: ID}, {ID: NAME} or {NAME: PROMPT or [PROMPT, ...]}.
"""

import dataclasses
import os
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from clipvip_jax.data.engine.items import clean_text, clean_texts
from clipvip_jax.data.engine.json_files import excerpt, read_json, read_json_lines
from clipvip_jax.data.engine.tables import is_table, read_csv
from clipvip_jax.data.engine.text_files import read_lines
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.local_paths import normal_form
from clipvip_jax.utils.log import log, printable

# The prompts of a class without its own are these, with its name in place of {}.
DEFAULT_TEMPLATES = (
  "{}",
  "a video of {}.",
  "a video of a person {}.",
  "a video clip that shows {}.",
  "a short recording of {}.",
  "someone is {}.",
  "people who are {}.",
  "an example of {}.",
)
_FIELDS = ("name", "id", "prompts")
_NUMBERED = re.compile(r"(\d+)[ \t]+(\S.*)")
_WORD_START = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_IGNORED = re.compile(r"[\s_\-\[\]]+")


@dataclasses.dataclass(frozen=True)
class ClassList:
  """The C classes of a test set.

  Attributes:
    names: as the list writes them.
    prompts: of each class, at least one.
    keys: index of each class by `class_key` of its name.
    ids: index of each class by its id; empty if the list has none.
  """

  names: tuple[str, ...]
  prompts: tuple[tuple[str, ...], ...]
  keys: Mapping[str, int]
  ids: Mapping[str, int]

  def find(self, label: str) -> int | None:
    """Returns the index of the class with this name, or else with this id; None if there is none."""
    index = self.keys.get(class_key(label))
    return self.ids.get(label.strip()) if index is None else index


@dataclasses.dataclass(frozen=True)
class _Row:
  """A class as the list has it; `prompts` is None where the list has no field for them."""

  where: str
  name: str
  id: str | None = None
  prompts: Any = None


def class_key(name: str) -> str:
  """Returns what is compared of a class name: its NFC form without case, white space, _, - and square brackets.

  ApplyEyeMakeup, apply_eye_makeup and "apply eye makeup" are one class, as are the placeholders of
  Something-Something with and without brackets.
  """
  return _IGNORED.sub("", normal_form(name).casefold())


def name_to_words(name: str) -> str:
  """Returns a class name as words for a prompt: ApplyEyeMakeup -> Apply Eye Makeup, brush_hair -> brush hair."""
  spaced = re.sub(r"[_\s]+", " ", name.replace("[", "").replace("]", "")).strip()
  return spaced if " " in spaced else _WORD_START.sub(" ", spaced)


def read_classes(path: pathlib.Path, templates: Sequence[str] = DEFAULT_TEMPLATES) -> ClassList:
  """Reads a class list; see the module's docstring.

  Args:
    path: a file; .json, .jsonl and tables are read as such, others as text.
    templates: with {} for the name, for classes without prompts of their own.

  Raises:
    UserError: the file is unreadable or invalid, has no class, names one twice, or has a class without prompts.
  """
  readers = {".json": _json_rows, ".jsonl": _json_lines_rows}
  rows = list(_csv_rows(path) if is_table(path, "name") else readers.get(path.suffix.lower(), _text_rows)(path))
  if not rows:
    raise UserError(f"--classes={path} has no classes; write one per line")
  keys = _index_by([(row.where, class_key(row.name)) for row in rows], "class")
  ids = _index_by([(row.where, row.id) for row in rows if row.id is not None], "id")
  if ids and len(ids) < len(rows):
    row = next(row for row in rows if row.id is None)
    raise UserError(f"{row.where}: class {row.name!r} has no id, others have one; give all classes an id, or none")
  if ambiguous := [name for name, index in ids.items() if keys.get(class_key(name), index) != index]:
    raise UserError(f"--classes={path}: {ambiguous[0]!r} is the id of one class and the name of another; rename one")
  prompts = tuple(_prompts(row, templates) for row in rows)
  return ClassList(tuple(row.name for row in rows), prompts, keys, ids)


def read_templates(path: pathlib.Path) -> tuple[str, ...]:
  """Reads prompt templates, one per line; empty lines are skipped.

  Raises:
    UserError: the file is unreadable, has no template, or one without {} for the name of the class.
  """
  lines = [(f"{path}, line {number}", line.strip()) for number, line in enumerate(read_lines(path), 1)]
  templates = [(where, clean_text(line, where)) for where, line in lines if line]
  if not templates:
    raise UserError(f"--templates={path} has no templates; write one per line, such as: a video of {{}}.")
  for where, template in templates:
    if "{}" not in template:
      raise UserError(f"{where}: template {template!r} has no {{}} for the name of the class; add it")
  return tuple(dict.fromkeys(template for _, template in templates))


def _index_by(values: Sequence[tuple[str, str]], kind: str) -> dict[str, int]:
  """Returns the position of each value; raises UserError if one occurs twice."""
  index: dict[str, int] = {}
  for position, (where, value) in enumerate(values):
    if value in index:
      raise UserError(
        f"{where}: {kind} {value!r} is listed twice, first at {values[index[value]][0]} (compared without case, white"
        " space, _, - and []); remove or rename one"
      )
    index[value] = position
  return index


def _prompts(row: _Row, templates: Sequence[str]) -> tuple[str, ...]:
  """Returns the prompts of a class; raises UserError if it has none."""
  if row.prompts is None:
    words = name_to_words(row.name)
    return tuple(dict.fromkeys(template.replace("{}", words) for template in templates))
  prompts = clean_texts(row.prompts, f"{row.where}, prompts")
  if not prompts:
    raise UserError(
      f"{row.where}: class {row.name!r} has no prompts; write at least one, or leave the field out to use the templates"
    )
  return tuple(dict.fromkeys(prompts))


def _row(where: str, name: Any, identifier: Any = None, prompts: Any = None) -> _Row:
  """Returns a checked row."""
  name = clean_text(name, f"{where}, name")
  if not class_key(name):
    raise UserError(f"{where}: a class has no name; write one")
  if identifier is None:
    return _Row(where, name, None, prompts)
  if isinstance(identifier, bool) or not isinstance(identifier, int | str) or not str(identifier).strip():
    raise UserError(f"{where}: the id of class {name!r} is {excerpt(identifier)}; write a number or a word")
  return _Row(where, name, str(identifier).strip(), prompts)


def _text_rows(path: pathlib.Path) -> Iterable[_Row]:
  lines = [(f"{path}, line {number}", line.strip()) for number, line in enumerate(read_lines(path), 1) if line.strip()]
  matches = [_NUMBERED.fullmatch(line) for _, line in lines]
  ids = [int(match[1]) for match in matches if match]
  # "1 ApplyEyeMakeup" on every line: a name may begin with a number, but not all of them in order.
  if ids and len(ids) == len(lines) and ids == [*range(ids[0], ids[0] + len(ids))]:
    return [_row(where, match[2], match[1]) for (where, _), match in zip(lines, matches, strict=True) if match]
  if table := next((where for where, line in lines if "\t" in line), ""):
    raise UserError(
      f"{table}: a tab, but not ID and NAME in order on every line; begin a table with a line of the names of its"
      " columns, name and id, and save it as .tsv"
    )
  return [_row(where, line) for where, line in lines]


def _csv_rows(path: pathlib.Path) -> Iterable[_Row]:
  ignored: set[str] = set()
  for where, row in read_csv(path, "name"):
    if new := sorted(row.keys() - {*_FIELDS, "", *ignored}):
      ignored.update(new)
      log.warning("%s: columns %s are ignored; those that are read are %s", path, printable(new), ", ".join(_FIELDS))
    prompts = row["prompts"].split("|") if "prompts" in row else None
    yield _row(where, row["name"], row.get("id"), prompts)


def _json_rows(path: pathlib.Path) -> Iterable[_Row]:
  content = read_json(str(path))
  if isinstance(content, dict):
    yield from _object_rows(path, content)
    return
  if not isinstance(content, list):
    raise UserError(f"{path}: expected a list of classes or an object, got {excerpt(content)}")
  for number, entry in enumerate(content, 1):
    where = f"{path}, entry {number}"
    yield _object_row(where, entry) if isinstance(entry, dict) else _row(where, entry)


def _json_lines_rows(path: pathlib.Path) -> Iterable[_Row]:
  for number, entry in read_json_lines(os.fspath(path)):
    yield _object_row(f"{path}, line {number}", entry)


def _object_row(where: str, entry: Mapping[str, Any]) -> _Row:
  """Returns the row of {"name", "id"?, "prompts"?}."""
  if unknown := sorted(entry.keys() - set(_FIELDS)):
    raise UserError(f"{where}: unknown field {excerpt(unknown[0])}; use name, id and prompts")
  prompts = _own_prompts(entry["prompts"]) if "prompts" in entry else None
  return _row(where, entry.get("name"), entry.get("id"), prompts)


def _object_rows(path: pathlib.Path, content: Mapping[str, Any]) -> Iterable[_Row]:
  """Yields the rows of {NAME: ID}, {ID: NAME} or {NAME: prompts}."""
  values_are_ids = all(isinstance(value, int | str) and str(value).isdecimal() for value in content.values())
  keys_are_ids = not values_are_ids and all(key.isdecimal() for key in content)
  for key, value in content.items():
    where = f"{path}, {key!r}"
    if values_are_ids:
      yield _row(where, key, value)
    elif keys_are_ids:
      yield _row(where, value, key)
    else:
      yield _row(where, key, None, _own_prompts(value))


def _own_prompts(prompts: Any) -> Any:
  """Returns the value of a field of prompts: null is an empty list, which `_prompts` refuses."""
  return () if prompts is None else prompts
