"""Configurations as JSON-compatible trees."""

import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import ml_collections

from clipvip_jax.utils import atomic_write


def write_json(path: pathlib.Path, value: object) -> None:
  """Writes a JSON file atomically."""
  with atomic_write.atomic_path(path) as temporary:
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    temporary.write_text(text, encoding="utf-8", errors="backslashreplace")  # file names need not be valid UTF-8


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
  """Yields the leaves of a nested mapping under dotted names: {"a": {"b": 1}} -> ("a.b", 1)."""
  for key, value in tree.items():
    if isinstance(value, Mapping) and value:
      yield from flatten(value, f"{prefix}{key}.")
    else:
      yield f"{prefix}{key}", value


def to_json_dict(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """Converts a ConfigDict to the dict that its JSON holds; tuples become lists."""
  return json.loads(config.to_json())
