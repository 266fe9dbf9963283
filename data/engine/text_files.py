"""Text files of annotations: UTF-8, with or without a byte order mark."""

from __future__ import annotations

import codecs
import io
import os
from collections.abc import Iterator

from clipvip_jax.utils.bucket_copies import fetch_file
from clipvip_jax.utils.compression import check_uncompressed
from clipvip_jax.utils.errors import UserError

_WIDE_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)  # UTF-32's little-endian mark starts with UTF-16's


def read_lines(path: str | os.PathLike[str], newline: str = "") -> Iterator[str]:
  """Yields the lines of a text file with their line ends.

  Args:
    path: The file.
    newline: As for `open`; "": lines also end at \\r, which old spreadsheets write.

  Raises:
    UserError: The file is unreadable, compressed, or not UTF-8.
  """
  number = 0
  try:
    with fetch_file(path).open("rb") as file:
      for raw in file:
        if not number:
          check_encoding(raw, path)
        number += 1
        text = str(raw, "utf-8-sig" if number == 1 else "utf-8")
        yield from io.StringIO(text, newline=newline)
  except UnicodeDecodeError as error:
    raise UserError(f"{path}, line {number}: not UTF-8 ({error}); re-encode the file") from error
  except OSError as error:
    raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def check_encoding(start: bytes, path: str | os.PathLike[str]) -> None:
  """Checks the first bytes of a text file, at least `compression.START_BYTES`.

  Raises:
    UserError: The file is compressed, or UTF-16 or UTF-32, as some spreadsheets write.
  """
  check_uncompressed(start, path)
  if start.startswith(_WIDE_MARKS) or b"\0" in start[:4]:
    raise UserError(
      f"{path}: the file is UTF-16 or UTF-32, not UTF-8; re-encode it: iconv -f UTF-16 -t UTF-8 FILE > NEW"
    )
