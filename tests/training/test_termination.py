"""SIGTERM between steps."""

import os
import signal
import threading

from clipvip_jax.training.termination import handle_sigterm


def test_stops_after_sigterm_and_restores_the_previous_handler():
  previous = signal.getsignal(signal.SIGTERM)
  with handle_sigterm() as should_stop:
    assert not should_stop(1)
    os.kill(os.getpid(), signal.SIGTERM)
    assert should_stop(2) and should_stop(3)
  assert signal.getsignal(signal.SIGTERM) == previous


def test_never_stops_in_another_thread_than_the_main_one():
  answers = []

  def run():
    with handle_sigterm() as should_stop:
      answers.append(should_stop(1))

  thread = threading.Thread(target=run)
  thread.start()
  thread.join()
  assert answers == [False]
