"""Errors of FFmpeg: raised and logged."""

import logging
from collections.abc import Sequence

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


def logged_error(messages: Sequence[tuple[int, str, str]]) -> str:
  """Returns the first error among captured messages (level, component, message); "" for none."""
  import av.logging

  for level, component, message in messages:
    if level <= av.logging.ERROR and not message.startswith(_HARMLESS):
      return f"{component}: {message.strip()}"
  return ""
