"""Text files of annotations: UTF-8, with or without a byte order mark."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator

from clipvip_jax.utils.bucket_copies import fetch_file
from clipvip_jax.utils.compression import check_encoding
from clipvip_jax.utils.errors import UserError


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
