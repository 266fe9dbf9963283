"""Notes on a media file that is decoded: what was converted or tolerated, such as HDR or interlaced pictures."""

import contextlib
import contextvars
from collections.abc import Iterator

_notes: contextvars.ContextVar[set[str] | None] = contextvars.ContextVar("media_notes", default=None)


def add_note(note: str) -> None:
  """Adds a note, an identifier such as "hdr", on the file that is decoded; ignored outside of `collect_notes`."""
  notes = _notes.get()
  if notes is not None:
    notes.add(note)


@contextlib.contextmanager
def collect_notes() -> Iterator[set[str]]:
  """Yields the set of notes that are added by this thread within the context."""
  notes: set[str] = set()
  token = _notes.set(notes)
  try:
    yield notes
  finally:
    _notes.reset(token)
