"""Configurations as JSON-compatible trees."""

import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from clipvip_jax.utils import atomic_write


def write_json(path: pathlib.Path, value: Any) -> None:
  """Writes a file that is either whole or not there."""
  with atomic_write.atomic_path(path) as temporary:
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    temporary.write_text(text, encoding="utf-8", errors="backslashreplace")  # a name of a file need not be UTF-8


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
  """{"a": {"b": 1}} -> ("a.b", 1)."""
  for key, value in tree.items():
    if isinstance(value, Mapping) and value:
      yield from flatten(value, f"{prefix}{key}.")
    else:
      yield f"{prefix}{key}", value


def to_json_dict(config: Any) -> dict[str, Any]:
  """A ConfigDict as JSON holds it: tuples become lists."""
  return json.loads(config.to_json())
