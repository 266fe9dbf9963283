"""Decoders that hang, crash or fail as real ones do on corrupt files; named "odd_decoders:FUNCTION"."""

import os
import pathlib
import signal
import sys
import time

from clipvip_jax.input_pipeline.video_decoder import iterate_pictures


def hangs(path, start, end):
  """Hangs on files with "hang" in their name."""
  if "hang" in str(path):
    time.sleep(3600)
  yield from iterate_pictures(path, start, end)


def crashes(path, start, end):
  """Crashes the process in the middle of files with "crash" in their name."""
  for picture in iterate_pictures(path, start, end):
    yield picture
    if "crash" in str(path):
      os.kill(os.getpid(), signal.SIGSEGV)


def talks(path, start, end):
  """Prints to standard output, as libraries do."""
  print("a warning of a library", flush=True)
  os.write(1, b"and one from C\n")
  yield from iterate_pictures(path, start, end)


def fills_the_memory(path, start, end):
  """Allocates more memory than the limit."""
  yield bytearray(2**45)


def breaks(path, start, end):
  """Raises an unexpected error."""
  raise ZeroDivisionError(f"in {sys._getframe().f_code.co_name}")
  yield


def slow(path, start, end):
  """Sleeps for ODD_DECODER_SECONDS before decoding, and until its build is killed where ODD_DECODER_WAITS says so.

  That variable is FOLDER:COUNT. COUNT shards of a split "train" that were written to FOLDER are followed by no other.
  """
  time.sleep(float(os.environ.get("ODD_DECODER_SECONDS", "0.05")))
  folder, _, count = os.environ.get("ODD_DECODER_WAITS", "").rpartition(":")
  parent = os.getppid()
  while folder and len(list(pathlib.Path(folder).rglob("train-*.json"))) >= int(count) and os.getppid() == parent:
    time.sleep(0.05)
  yield from iterate_pictures(path, start, end)
