"""Times of annotations and subtitles."""

import pytest

from clipvip_jax.utils.timestamps import parse_time


@pytest.mark.parametrize(
  ("text", "seconds"),
  [
    ("00:00:17.759", 17.759),
    ("1:02:03,5", 3723.5),
    ("02:03", 123.0),
    ("100:00:00.000", 360_000.0),
    ("00:60:00", None),
    ("-0:00:02", None),
    ("later", None),
    ("12.5", None),
    ("", None),
    ("00:00:01 ", None),
  ],
)
def test_parses_times(text, seconds):
  assert parse_time(text) == pytest.approx(seconds)
