"""Tar files in WebDataset layout, read without unpacking: adjacent members KEY.EXTENSION are one sample."""

from __future__ import annotations

import functools
import posixpath
import tarfile
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

from etils import epath

from clipvip_jax.data.engine.json_files import excerpt, parse_json
from clipvip_jax.utils.compression import START_BYTES, check_uncompressed
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.local_paths import normal_form
from clipvip_jax.utils.log import list_first
from clipvip_jax.utils.storage import explain_errors

PATTERNS = ("*.tar", "*/*.tar", "*/*/*.tar")  # usual places below a folder
_BLOCK = 2**20  # bytes
_MAX_TEXT_BYTES = 2**24
_MAX_NAMED = 5  # unused files of a group in a message


class Span(NamedTuple):
  """Offset and size in bytes of a member within its tar file."""

  offset: int
  size: int


class Group(NamedTuple):
  """Adjacent members with the same key.

  Attributes:
    file: the open tar file.
    key: the name up to the first dot of its last component. It and names of members are in NFC.
    members: {name: span} of those that are used.
    unused: {name: reason} of the others; the reason is "" for a suffix that is not read.
  """

  file: BinaryIO
  key: str
  members: dict[str, Span]
  unused: dict[str, str]

  def describe_unused(self, prefix: str = "") -> str:
    """Returns why a sample has no video or image, if there are unused members, which it names; "" otherwise.

    Args:
      prefix: of the names of the sample's members.
    """
    texts = [
      f"{name!r} ({reason})" if reason else repr(name)
      for name, reason in self.unused.items()
      if name.startswith(prefix)
    ]
    listed = list_first(texts, _MAX_NAMED)
    return f"no file of a format that is read; convert or replace what the tar file has: {listed}" if texts else ""


def iterate_groups(path: epath.Path, suffixes: tuple[str, ...]) -> Iterator[Group]:
  """Yields the groups of adjacent members with the same key, in order.

  Attributes that macOS stores as ._NAME are ignored. A hard link has the content of the earlier member that it names.

  Args:
    path: the tar file.
    suffixes: of the members to use, in lower case. Others, empty ones, and links to elsewhere are not.

  Raises:
    UserError: the file is unreadable, compressed, truncated or corrupt, or two members of a group have the same name.
  """
  try:
    with explain_errors(path), path.open("rb") as file:
      check_uncompressed(file.read(START_BYTES), path)
      targets = _LinkTargets(file)
      group = Group(file, "", {}, {})
      for member in _members(file, path):
        name = normal_form(member.name)
        if (key := _first_dot_key(name)) != group.key:
          yield group
          group = Group(file, key, {}, {})
        if name in group.members:
          raise UserError(f"{path}, {name!r}: two files of this name; keep one of them")
        if not name.lower().endswith(suffixes):
          group.unused[name] = ""
        elif isinstance(span := _find_span(member, targets), Span):
          group.members[name] = span
        else:
          group.unused[name] = span
      yield group
  except (tarfile.TarError, EOFError) as error:
    raise UserError(f"{path}: the tar file is truncated or corrupt ({error}); copy it again") from error
  except OSError as error:
    raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def _first_dot_key(member: str) -> str:
  """Returns a member's name up to the first dot of its last component, by which WebDataset groups members."""
  folder, name = posixpath.split(member)
  return posixpath.join(folder, name.split(".")[0])


def _find_span(member: tarfile.TarInfo, targets: _LinkTargets) -> Span | str:
  """Returns where the content of a member is, or why it has none that can be read."""
  target = repr(member.linkname[:80])
  if member.issym():
    return f"a symbolic link to {target}; store the file: tar --dereference"
  if member.islnk():
    span = targets.find(member)
    if span is None:
      return f"a hard link to {target}, which is not an earlier file of this tar file"
  else:
    span = None if member.issparse() else Span(member.offset_data, member.size)
  return "sparse; create the tar file without --sparse" if span is None else span if span.size else "empty"


class _LinkTargets:
  """Targets of the hard links of a tar file, which is listed at the first of them: few tar files have any."""

  def __init__(self, file: BinaryIO):
    self._file = file

  @functools.cached_property
  def _spans(self) -> dict[str, Span]:
    self._file.seek(0)
    with tarfile.open(fileobj=self._file, mode="r:") as tar:
      return {
        posixpath.normpath(member.name): Span(member.offset_data, member.size)
        for member in _entries(tar)
        if member.isreg() and not member.issparse()
      }

  def find(self, link: tarfile.TarInfo) -> Span | None:
    """Returns the span of the earlier file that a hard link names; None if there is none."""
    span = self._spans.get(posixpath.normpath(link.linkname))
    return span if span is not None and span.offset < link.offset else None


def _entries(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
  while (member := tar.next()) is not None:
    tar.members.clear()  # type: ignore[attr-defined]  # tarfile keeps all of them in memory
    yield member


def _members(file: BinaryIO, path: epath.Path) -> Iterator[tarfile.TarInfo]:
  """Yields the files and links of a tar file. Raises UserError if its end-of-archive marker is missing."""
  file.seek(0)
  with tarfile.open(fileobj=file, mode="r:") as tar:
    for member in _entries(tar):
      if (member.isreg() or member.islnk() or member.issym()) and not _is_resource_fork(member.name):
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
    file: the open tar file.
    span: the member.
    where: its location, for the error message.

  Raises:
    UserError: it is unreadable, truncated, too large, compressed, or not UTF-8.
  """
  if span.size > _MAX_TEXT_BYTES:
    raise UserError(f"{where}: the text has {span.size} bytes; use at most {_MAX_TEXT_BYTES}")
  try:
    file.seek(span.offset)
    data = file.read(span.size)
    if len(data) < span.size:
      raise UserError(f"{where}: the tar file ends within the text; copy it again")
    check_uncompressed(data, where)
    return str(data, "utf-8-sig")
  except UnicodeDecodeError as error:
    raise UserError(f"{where}: the text is not UTF-8 ({error}); re-encode it") from error
  except OSError as error:
    raise UserError(f"{where}: cannot be read ({error.strerror})") from error


def read_object(file: BinaryIO, span: Span, where: str) -> dict[str, Any]:
  """Reads a member as a JSON object; see `read_text`.

  Raises:
    UserError: it is not a valid JSON object.
  """
  try:
    fields = parse_json(read_text(file, span, where))
  except (ValueError, RecursionError) as error:
    raise UserError(f"{where}: invalid JSON ({error})") from error
  if not isinstance(fields, dict):
    raise UserError(f'{where}: expected {{"caption": TEXT}}, got {excerpt(fields)}')
  return fields
