"""Text fields of corpus records."""

from collections.abc import Mapping
from typing import Any

# A clip as TFDS returns it: JPEG bytes in "frames", texts as bytes.
Record = Mapping[str, Any]


def record_text(record: Record, field: str) -> str:
  """Returns a field with a single text; TFDS stores it as UTF-8 bytes."""
  value = record[field]
  return value.decode("utf-8") if isinstance(value, bytes) else value


def record_texts(record: Record, field: str) -> list[str]:
  """Returns the texts of a field with one or several, without blank ones; an empty list for the field ""."""
  if not field:
    return []
  value = record[field]
  values = [value] if isinstance(value, bytes | str) else value
  texts = [item.decode("utf-8") if isinstance(item, bytes) else item for item in values]
  return [text for text in texts if text.strip()]
