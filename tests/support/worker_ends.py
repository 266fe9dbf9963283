"""Stand-ins for the process that measures an accelerator: they answer, die or hang."""

import os
import signal
import time


def serve(connection, prefix):
  """Answers each row with its name, dies at "kill" and "exit", and hangs at "hang"."""
  while True:
    try:
      row = connection.recv()
    except EOFError:
      return
    if row.kind == "kill":
      os.kill(os.getpid(), signal.SIGKILL)
    if row.kind == "exit":
      os._exit(3)
    if row.kind == "hang":
      time.sleep(60)
    connection.send({"status": "measured", "answer": f"{prefix} {row.kind}", "process": os.getpid()})
