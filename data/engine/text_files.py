"""Text files of annotations: UTF-8, with or without a byte order mark."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator

from clipvip_jax.utils.bucket_copies import fetch_file
from clipvip_jax.utils.compression import check_encoding
from clipvip_jax.utils.errors import UserError


def decode(data: bytes, where: str | os.PathLike[str], encoding: str = "utf-8") -> str:
  """Returns the text of bytes in UTF-8; raises UserError with their location if they are none."""
  try:
    return str(data, encoding)
  except UnicodeDecodeError as error:  # most such texts are from Windows
    raise UserError(
      f"{where}: not UTF-8 ({error}); re-encode the file: iconv -f WINDOWS-1252 -t UTF-8 FILE > NEW"
    ) from error


def read_lines(path: str | os.PathLike[str], newline: str = "") -> Iterator[str]:
  """Yields the lines of a text file with their line ends.

  Args:
    path: the file.
    newline: as for `open`; "": lines also end at \\r, which old spreadsheets write.

  Raises:
    UserError: the file is unreadable, compressed, or not UTF-8.
  """
  number = 0
  try:
    with fetch_file(path).open("rb") as file:
      for raw in file:
        if not number:
          check_encoding(raw, path)
        number += 1
        text = decode(raw, f"{path}, line {number}", "utf-8-sig" if number == 1 else "utf-8")
        yield from io.StringIO(text, newline=newline)
  except OSError as error:
    raise UserError(f"{path}: cannot be read ({error.strerror})") from error
