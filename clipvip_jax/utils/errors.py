"""Exceptions that end a command with a message in place of a traceback, and the text of an error for a message."""

import errno
import signal

TOO_MANY_FILES = (errno.EMFILE, errno.ENFILE)  # are open: a condition of the process, or of the machine


class UserError(Exception):
  """Bad input. The message states what is wrong, where, and what to do."""


class Terminated(KeyboardInterrupt):
  """A signal stopped a command; the same command resumes it.

  A KeyboardInterrupt: handlers of Exception do not catch it, and asyncio does not drop it in callbacks.

  Attributes:
    exit_code: of the command, 128 + the signal.
  """

  def __init__(self, number: int, note: str):
    """Args: `number` is the signal, `note` says what is saved and what to do."""
    super().__init__(f"{signal.Signals(number).name}: {note}")
    self.exit_code = 128 + number


def first_line(error: BaseException) -> str:
  """Returns the first line of an error's message, or the name of its type where the message is empty."""
  return (str(error).strip() or type(error).__name__).splitlines()[0]
