"""Tar files in WebDataset layout, read without unpacking: adjacent members KEY.EXTENSION are one sample."""

from __future__ import annotations

import posixpath
import tarfile
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

from etils import epath

from clipvip_jax.data.engine.json_files import excerpt, parse_json
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.storage import explain_errors

PATTERNS = ("*.tar", "*/*.tar", "*/*/*.tar")  # usual places below a folder
_BLOCK = 2**20  # bytes
_MAX_TEXT_BYTES = 2**24


class Span(NamedTuple):
  """Offset and size in bytes of a member within its tar file."""

  offset: int
  size: int


def iterate_groups(path: epath.Path, suffixes: tuple[str, ...]) -> Iterator[tuple[BinaryIO, str, dict[str, Span]]]:
  """Yields the groups of adjacent members with the same key, in order: (the open file, key, {member: span}).

  The key is the name up to the first dot of its last component. Attributes that macOS stores as ._NAME are ignored.

  Args:
    path: The tar file.
    suffixes: Of the members to return, in lower case; others, and empty ones, are ignored.

  Raises:
    UserError: The file is unreadable, truncated or corrupt, or two members of a group have the same name.
  """
  key, group = "", dict[str, Span]()
  try:
    with explain_errors(path), path.open("rb") as file:
      for member in _members(file, path):
        member_key = _first_dot_key(member.name)
        if member_key != key:
          yield file, key, group
          key, group = member_key, {}
        if member.name in group:
          raise UserError(f"{path}, {member.name!r}: two files of this name; keep one of them")
        if member.size > 0 and member.name.lower().endswith(suffixes):
          group[member.name] = Span(member.offset_data, member.size)
      yield file, key, group
  except (tarfile.TarError, EOFError) as error:
    raise UserError(f"{path}: the tar file is truncated or corrupt ({error}); copy it again") from error
  except OSError as error:
    raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def _first_dot_key(member: str) -> str:
  """Returns a member's name up to the first dot of its last component, by which WebDataset groups members."""
  folder, name = posixpath.split(member)
  return posixpath.join(folder, name.split(".")[0])


def _members(file: BinaryIO, path: epath.Path) -> Iterator[tarfile.TarInfo]:
  """Yields the regular files of a tar file. Raises UserError if its end-of-archive marker is missing."""
  with tarfile.open(fileobj=file, mode="r:") as tar:
    while (member := tar.next()) is not None:
      tar.members.clear()  # type: ignore[attr-defined]  # tarfile keeps all of them in memory
      if member.isreg() and not member.issparse() and not _is_resource_fork(member.name):
        yield member
    file.seek(tar.offset)  # tarfile also stops silently at a corrupt header
    if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
      raise UserError(f"{path}: the tar file is truncated or corrupt at byte {tar.offset}; copy or create it again")
    while block := file.read(_BLOCK):
      if block.strip(b"\0"):
        raise UserError(f"{path}: data after the end of the tar file; do not concatenate tar files")


def _is_resource_fork(member: str) -> bool:
  """Returns whether macOS stored attributes of another file under this name: ._NAME beside NAME, or in __MACOSX."""
  *folders, name = member.split("/")
  return name.startswith("._") or "__MACOSX" in folders


def read_text(file: BinaryIO, span: Span, where: str) -> str:
  """Reads a member as UTF-8.

  Args:
    file: The open tar file.
    span: The member.
    where: Its location, for the error message.

  Raises:
    UserError: It is unreadable, truncated, too large, or not UTF-8.
  """
  if span.size > _MAX_TEXT_BYTES:
    raise UserError(f"{where}: the text has {span.size} bytes; use at most {_MAX_TEXT_BYTES}")
  try:
    file.seek(span.offset)
    data = file.read(span.size)
    if len(data) < span.size:
      raise UserError(f"{where}: the tar file ends within the text; copy it again")
    return str(data, "utf-8-sig")
  except UnicodeDecodeError as error:
    raise UserError(f"{where}: the text is not UTF-8 ({error}); re-encode it") from error
  except OSError as error:
    raise UserError(f"{where}: cannot be read ({error.strerror})") from error


def read_object(file: BinaryIO, span: Span, where: str) -> dict[str, Any]:
  """Reads a member as a JSON object; see `read_text`.

  Raises:
    UserError: It is not a valid JSON object.
  """
  try:
    fields = parse_json(read_text(file, span, where))
  except (ValueError, RecursionError) as error:
    raise UserError(f"{where}: invalid JSON ({error})") from error
  if not isinstance(fields, dict):
    raise UserError(f'{where}: expected {{"caption": TEXT}}, got {excerpt(fields)}')
  return fields
