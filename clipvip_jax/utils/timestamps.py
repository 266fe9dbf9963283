"""Times within a video as annotations and subtitles write them: HH:MM:SS.mmm."""

import re

_TIME = re.compile(r"(?:(\d{1,9}):)?([0-5]?\d):([0-5]?\d(?:[.,]\d*)?)", re.ASCII)


def parse_time(text: str) -> float | None:
  """Returns the seconds of `HH:MM:SS.mmm` or `MM:SS.mmm`, with a point or a comma; None for other texts."""
  match = _TIME.fullmatch(text)
  if match is None:
    return None
  return 3600 * int(match[1] or 0) + 60 * int(match[2]) + float(match[3].replace(",", "."))
