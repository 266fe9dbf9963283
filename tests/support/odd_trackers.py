"""Trackers that record in a file, or fail as real ones do without a network; named "odd_trackers:CLASS"."""

import json
import os
import signal
import sys
import time

from clipvip_jax.tracking.tracker import Tracker


class Recorder(Tracker):
  """Writes each call to WORKDIR/recorded.jsonl."""

  def start(self, run):
    self._path = run.workdir / "recorded.jsonl"
    self._write("start", run.id, run.first_step, run.config)
    return run.id or "the id"

  def log_metrics(self, step, metrics):
    self._write("metrics", step, metrics)

  def log_results(self, step, results, report):
    self._write("results", step, results, report.read_text())

  def finish(self, status):
    self._write("finish", status)

  def _write(self, *call):
    with self._path.open("a") as file:
      print(json.dumps(call), file=file)


class Fails(Recorder):
  """Fails in the calls that TRACKER_FAILS_IN names, as ODD_TRACKER says."""

  def _write(self, *call):
    if call[0] in os.environ["TRACKER_FAILS_IN"]:
      FAILURES[os.environ["ODD_TRACKER"]]()
    super()._write(*call)


def raises():
  raise ConnectionError(f"no route to https://user:{os.environ['TRACKER_PASSWORD']}@host\nin two lines")


def hangs():
  time.sleep(3600)


def crashes():
  os.kill(os.getpid(), signal.SIGSEGV)


def talks():
  """Prints and reads, as packages do that ask for a login."""
  print("Enter your key: ", flush=True)
  os.write(1, b"from C\n")
  assert not sys.stdin.read()


def exits():
  """Ends its process as if all were well, as packages may that end their own child processes."""
  os._exit(0)


def quits():
  sys.exit("no login")


FAILURES = {failure.__name__: failure for failure in (raises, hangs, crashes, talks, exits, quits)}


class Incomplete(Tracker):
  """Lacks methods."""

  def start(self, run):
    return ""


def function():
  """No class."""
