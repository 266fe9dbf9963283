"""Errors of FFmpeg: raised and logged."""

import logging

# Errors in what accompanies the pictures, or in how long references are kept: the pictures are right.
_HARMLESS = ("SEI ", "unable to decode APP fields", "mmco: unref short failure")


def error_reason(error: Exception) -> str:
  """Returns the description of an error without the path."""
  return getattr(error, "strerror", None) or str(error) or type(error).__name__


def enable_log() -> None:
  """Makes PyAV pass on FFmpeg's errors to `av.logging.Capture`; outside of it they are dropped, as by default.

  A generator must not yield within a capture: it would receive the messages of whatever this thread does meanwhile.
  """
  import av.logging

  if av.logging.get_level() is None:  # PyAV drops all messages by default
    av.logging.set_skip_repeated(False)
    av.logging.set_level(av.logging.ERROR)
    logging.getLogger("libav").addHandler(logging.NullHandler())
    logging.getLogger("libav").propagate = False


def take_error(messages: list[tuple[int, str, str]]) -> str:
  """Removes captured messages (level, component, message); returns the first error among them, "" for none."""
  import av.logging

  errors = (
    f"{component}: {message.strip()}"
    for level, component, message in messages
    if level <= av.logging.ERROR and not message.startswith(_HARMLESS)
  )
  first = next(errors, "")
  messages.clear()
  return first
