"""Errors as text for messages."""

import pytest

from clipvip_jax.utils.errors import first_line


@pytest.mark.parametrize(
  ("error", "line"),
  [
    (ValueError("one"), "one"),
    (ValueError("\n\n  first \nsecond\n"), "first "),
    (ValueError("first\r\nsecond"), "first"),
    (ValueError("first\u2028second"), "first"),
    (ValueError(""), "ValueError"),
    (ValueError(" \n "), "ValueError"),
    (FileNotFoundError(2, "No such file", "a.txt"), "[Errno 2] No such file: 'a.txt'"),
    (KeyboardInterrupt(), "KeyboardInterrupt"),
  ],
)
def test_first_line_of_an_error(error, line):
  assert first_line(error) == line
