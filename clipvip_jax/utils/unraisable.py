"""Exceptions that Python cannot raise, because they occur in a callback of C or in the deletion of an object.

Python passes them to `sys.unraisablehook`, which prints a traceback, and continues.
"""

import sys
import traceback
from collections.abc import Callable

Handler = Callable[["sys.UnraisableHookArgs"], bool]


class _Hook:
  """`sys.unraisablehook` that calls handlers first."""

  def __init__(self, report: Callable[["sys.UnraisableHookArgs"], object]):
    self.handlers: list[Handler] = []
    self._report = report

  def __call__(self, unraisable: "sys.UnraisableHookArgs", /) -> None:
    if not any(handler(unraisable) for handler in self.handlers):
      self._report(unraisable)


def handle(handler: Handler) -> None:
  """Calls `handler` for each exception that cannot be raised; it is printed unless one returns True. Idempotent."""
  if not isinstance(sys.unraisablehook, _Hook):
    sys.unraisablehook = _Hook(sys.unraisablehook)
  if handler not in sys.unraisablehook.handlers:
    sys.unraisablehook.handlers.append(handler)


def is_late_callback(unraisable: "sys.UnraisableHookArgs") -> bool:
  """Handler that silences reads and writes of TensorStore that end after Orbax has raised the first error of one.

  Orbax then closes the event loop that the others report to and deletes their coroutines. Each of them prints a
  traceback, from any thread. Errors with a call of another package are not silenced.
  """
  error, calls = unraisable.exc_value, unraisable.exc_traceback
  is_closed = isinstance(error, RuntimeError) and str(error) == "Event loop is closed"
  is_deleted = error is not None and isinstance(error.__cause__, GeneratorExit)
  if calls is None or not (is_closed or is_deleted):
    return False
  packages = {frame.f_globals.get("__name__", "").partition(".")[0] for frame, _ in traceback.walk_tb(calls)}
  return packages <= {"asyncio", "uvloop", "orbax", "tensorstore"}
