"""Errors that a user can mend: shown as one plain message, without a traceback."""


class UserError(Exception):
  """Bad input. The message names what was wrong, where, and what is allowed or what to run next."""
