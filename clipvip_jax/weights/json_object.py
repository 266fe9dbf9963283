"""JSON of files next to weights and of their headers, without repeated keys."""

import collections
import json
from typing import Any


def parse(text: str | bytes) -> Any:
  """Parses JSON.

  Raises:
    ValueError: it is invalid, or an object has a key twice, of which Python would keep the last.
    RecursionError: it is nested too deeply.
  """
  return json.loads(text, object_pairs_hook=_unique_keys)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  entries = dict(pairs)
  if len(entries) != len(pairs):
    name, _ = collections.Counter(name for name, _ in pairs).most_common(1)[0]
    raise ValueError(f"contains '{name}' twice")
  return entries
