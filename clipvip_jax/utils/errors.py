"""What ends a command other than a fault of ours: shown as one plain message, without a traceback."""


class UserError(Exception):
  """Bad input. The message names what was wrong, where, and what is allowed or what to run next."""


class Terminated(Exception):
  """SIGTERM came; the run was saved and can be continued."""
