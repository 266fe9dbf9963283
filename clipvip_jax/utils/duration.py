"""Durations in words."""


def format_duration(seconds: float) -> str:
  """`42s`, `3m05s`, `2h10m`."""
  seconds = round(seconds)
  if seconds < 60:
    return f"{seconds}s"
  minutes, seconds = divmod(seconds, 60)
  return f"{minutes}m{seconds:02d}s" if minutes < 60 else f"{minutes // 60}h{minutes % 60:02d}m"
