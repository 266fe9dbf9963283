"""Compressed files and UTF-16 texts, told by their first bytes, in place of the plain files that are read."""

from __future__ import annotations

import codecs
import os
import re

from clipvip_jax.utils.errors import UserError

START_BYTES = 10  # that `check_uncompressed` needs
# Neither UTF-8 texts nor tar files of any real names begin so.
_FORMATS = (
  (re.compile(rb"\x1f\x8b"), "gzip", "gzip -dc FILE > NEW"),
  (re.compile(rb"\xfd7zXZ\0"), "xz", "xz -dc FILE > NEW"),
  (re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)"), "bzip2", "bzip2 -dc FILE > NEW"),
  (re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18"), "zstd", "zstd -dc FILE > NEW"),  # or pzstd's first frame
  (re.compile(rb"\x04\x22\x4d\x18"), "lz4", "lz4 -dc FILE > NEW"),
  (re.compile(rb"PK\x03\x04"), "zip, as Excel's .xlsx files are", "unzip FILE, or export a workbook as text"),
)
_WIDE_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)  # UTF-32's little-endian mark starts with UTF-16's


def check_uncompressed(start: bytes, where: str | os.PathLike[str]) -> None:
  """Refuses a compressed file.

  Args:
    start: its first START_BYTES bytes or more.
    where: its location, for the error message.

  Raises:
    UserError: it is compressed.
  """
  for pattern, name, command in _FORMATS:
    if pattern.match(start):
      raise UserError(f"{os.fspath(where)}: the file is compressed ({name}); decompress it: {command}")


def check_encoding(start: bytes, path: str | os.PathLike[str]) -> None:
  """Checks the first bytes of a text file, at least `START_BYTES`.

  Raises:
    UserError: the file is compressed, or UTF-16 or UTF-32, as some spreadsheets write.
  """
  check_uncompressed(start, path)
  if start.startswith(_WIDE_MARKS) or b"\0" in start[:4]:
    raise UserError(
      f"{path}: the file is UTF-16 or UTF-32, not UTF-8; re-encode it: iconv -f UTF-16 -t UTF-8 FILE > NEW"
    )
