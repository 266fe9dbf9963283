"""A time limit for calls that may wait for a store or service that does not answer."""

import threading
from collections.abc import Callable


def call_within(seconds: float, action: Callable[[], object]) -> None:
  """Calls a function in a thread, which is abandoned when its time is over.

  Raises:
    TimeoutError: the call has not returned.
    Exception: what the function raised.
  """
  errors: list[BaseException] = []

  def run() -> None:
    try:
      action()
    except BaseException as error:
      errors.append(error)

  thread = threading.Thread(target=run, name="limited call", daemon=True)
  thread.start()
  thread.join(seconds)
  if thread.is_alive():
    raise TimeoutError(f"not finished within {seconds:g} seconds")
  if errors:
    raise errors[0]
