"""Decoders that do what damaged files make real ones do; named as "odd_decoders:FUNCTION"."""

import os
import signal
import sys
import time

from clipvip_jax.input_pipeline.video_decoder import iterate_pictures


def hangs(path, start, end):
  """Never comes back from a file whose name says so."""
  if "hang" in str(path):
    time.sleep(3600)
  yield from iterate_pictures(path, start, end)


def crashes(path, start, end):
  """Ends the process on a file whose name says so, in the middle of a clip."""
  for picture in iterate_pictures(path, start, end):
    yield picture
    if "crash" in str(path):
      os.kill(os.getpid(), signal.SIGSEGV)


def talks(path, start, end):
  """Prints, as libraries do."""
  print("a warning of a library", flush=True)
  os.write(1, b"and one from C\n")
  yield from iterate_pictures(path, start, end)


def fills_the_memory(path, start, end):
  """Asks for more than there is."""
  yield bytearray(2**45)


def breaks(path, start, end):
  """An error that nobody thought of."""
  raise ZeroDivisionError(f"in {sys._getframe().f_code.co_name}")
  yield


def slow(path, start, end):
  """Takes its time, as much as the environment says."""
  time.sleep(float(os.environ.get("ODD_DECODER_SECONDS", "0.05")))
  yield from iterate_pictures(path, start, end)
