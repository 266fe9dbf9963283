"""Processes that start with other signals or limits than their parent."""

import sys


def prepared(code, *command):
  """Returns a command that runs Python code in its process first.

  As `preexec_fn` of subprocess does, which may hang where the parent has threads.
  """
  return [sys.executable, "-c", f"import os, sys\n{code}\nos.execv(sys.argv[1], sys.argv[1:])", *command]
