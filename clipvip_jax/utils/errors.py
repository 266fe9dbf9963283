"""Exceptions that end a command with a message in place of a traceback, and the text of an error for a message."""


class UserError(Exception):
  """Bad input. The message states what is wrong, where, and what to do."""


class Terminated(Exception):
  """The run received SIGTERM and saved a checkpoint; the same command resumes it."""


def first_line(error: BaseException) -> str:
  """Returns the first line of an error's message, or the name of its type where the message is empty."""
  return (str(error).strip() or type(error).__name__).splitlines()[0]
