"""Signals that stop a run: when they raise, when they are deferred, and that none is lost."""

import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from clipvip_jax.utils import cli, signals
from clipvip_jax.utils.errors import Terminated


def send(number):
  os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", signals.SIGNALS)
def test_the_first_signal_raises_and_later_ones_do_not_interrupt_the_end(number):
  previous = [signal.getsignal(other) for other in signals.SIGNALS]
  with pytest.raises(Terminated, match=f"{number.name}: stopped; run") as stopped, signals.handled():
    try:
      send(number)
    finally:
      for other in signals.SIGNALS:
        send(other)
  assert stopped.value.exit_code == 128 + number
  assert [signal.getsignal(other) for other in signals.SIGNALS] == previous
  assert not signals.received()


def test_a_signal_is_deferred_until_the_steps_are_saved():
  with pytest.raises(Terminated, match="SIGTERM: saved step 3"), signals.handled():
    signals.defer()
    send(signal.SIGTERM)
    send(signal.SIGINT)
    assert signals.received() == signal.SIGTERM
    signals.allow("saved step 3")


def test_an_interruptible_block_raises_and_restores_the_deferral():
  with signals.handled():
    signals.defer()
    with signals.interruptible("saved step 3"):
      pass
    send(signal.SIGTERM)
    with pytest.raises(Terminated, match="SIGTERM: saved step 6"), signals.interruptible("saved step 6"):
      raise AssertionError("a deferred signal ends the block before it begins")
  with pytest.raises(Terminated, match="SIGHUP: saved step 6"), signals.handled():
    signals.defer()
    with signals.interruptible("saved step 6"):
      send(signal.SIGHUP)


class Deleted:
  def __del__(self):
    send(signal.SIGTERM)


def collect():
  def callback(phase, _):
    if phase == "start":
      send(signal.SIGTERM)

  gc.collect()  # what other tests have left, such as sessions of aiohttp, whose deletion catches all exceptions
  gc.callbacks.append(callback)
  gc.collect()
  gc.callbacks.remove(callback)


@pytest.mark.parametrize("lose", [Deleted, collect])
def test_a_signal_is_repeated_if_it_arrives_where_nothing_can_be_raised(lose, capfd):
  with pytest.raises(Terminated, match="SIGTERM: stopped"), signals.handled():
    lose()
    time.sleep(10)
    raise AssertionError("the signal is lost")
  assert not capfd.readouterr().err


def test_no_handler_of_errors_catches_it():
  with pytest.raises(Terminated), signals.handled():
    try:
      send(signal.SIGTERM)
    except Exception:
      raise AssertionError("as around the restoring of a checkpoint") from None


def test_other_threads_handle_no_signals():
  handlers = []

  def run():
    with signals.handled():
      handlers.append(signal.getsignal(signal.SIGTERM))

  thread = threading.Thread(target=run)
  thread.start()
  thread.join()
  assert handlers == [signal.getsignal(signal.SIGTERM)]


COMMAND = """
  import atexit, hashlib, sys, time
  from clipvip_jax.utils import cli, signals
  signals.NOTICE_SECONDS = 0.3

  def main():
    if sys.argv[1] == "in C":  # as a compilation, which runs no Python
      print("ready", flush=True)
      hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)

  def end():  # as libraries that end their threads
    print("ready", flush=True)
    time.sleep(1)

  atexit.register(end)
  cli.run_command(main)
"""


# Signals as in a terminal: background jobs and nohup ignore some, and their children inherit that.
IN_TERMINAL = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
"""


def run_and_send(mode, number, command=COMMAND, times=2):
  """(exit code, output) of a command that receives a signal several times."""
  command = [sys.executable, "-c", IN_TERMINAL + textwrap.dedent(command), mode]
  process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
  assert process.stdout.readline() == "ready\n"
  for _ in range(times):
    time.sleep(0.2)
    process.send_signal(number)
  return process.wait(timeout=30), process.stdout.read()


@pytest.mark.parametrize("number", signals.SIGNALS)
def test_a_main_thread_that_runs_no_python_is_ended_with_the_same_line_and_exit_code(number):
  code, output = run_and_send("in C", number)
  assert code == 128 + number and output.endswith(f"{number.name}: stopped; run the same command again\n"), output
  assert output.count("\n") == 1


def test_a_signal_after_the_end_does_not_change_the_exit_code():
  assert run_and_send("ends", signal.SIGTERM) == (0, "")


@pytest.mark.parametrize("number", signals.SIGNALS)
def test_a_command_ends_in_one_line_and_cleans_up(number):
  command = """
    import sys, time
    from clipvip_jax.utils import cli

    def main():
      try:
        print("ready", flush=True)
        time.sleep(60)
      finally:
        print(sys.argv[1])

    cli.run_command(main)
  """
  ended, output = run_and_send("cleaned up", number, command, times=1)
  assert ended == 128 + number and output.splitlines()[0] == "cleaned up"
  assert output.count("\n") == 2 and output.endswith(f"{number.name}: stopped; run the same command again\n"), output


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_command_ends_in_a_callback_of_asyncio(number):
  command = """
    import asyncio, time
    from clipvip_jax.utils import cli

    def callback():
      print("ready", flush=True)
      time.sleep(20)

    async def wait():
      asyncio.get_running_loop().call_soon(callback)
      await asyncio.sleep(60)

    cli.run_command(lambda: asyncio.run(wait()))
  """
  code, output = run_and_send("", number, command, times=1)
  assert code == 128 + number and output.count("\n") == 1, output


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT])
def test_signals_that_the_parent_process_ignores_do_not_end_a_command(number):
  command = f"""
    import signal, time
    from clipvip_jax.utils import cli
    signal.signal({number}, signal.SIG_IGN)  # as nohup, and a shell for its background jobs
    cli.run_command(lambda: print("ready", flush=True) or time.sleep(1))
  """
  assert run_and_send("", number, command) == (0, "")


def test_a_signal_to_a_forked_process_does_not_end_its_parent():
  command = """
    import os, signal, time, warnings
    from clipvip_jax.utils import cli, signals
    signals.NOTICE_SECONDS = 0.1
    warnings.simplefilter("ignore")  # of Python, about forks of processes with threads

    def main():
      reader, writer = os.pipe()
      child = os.fork()
      if not child:
        os.write(writer, b"started")
        time.sleep(20)
        os._exit(1)
      os.read(reader, 1)
      print("ready", flush=True)
      os.kill(child, signal.SIGTERM)
      os.waitpid(child, 0)
      time.sleep(1)

    cli.run_command(main)
  """
  code, output = run_and_send("", signal.SIGTERM, command, times=0)
  assert code == 0 and output.count("SIGTERM") == 1, output


def test_a_terminated_command_ends_without_deleting_objects_whose_deletion_may_crash():
  command = """
    import atexit, os, time
    from clipvip_jax.utils import cli

    class Executable:  # as one that the compiler had not completed
      __del__ = staticmethod(os.abort)

    executable = Executable()
    atexit.register(print, "exit functions are called")
    cli.run_command(lambda: print("ready", flush=True) or time.sleep(60))
  """
  code, output = run_and_send("", signal.SIGTERM, command)
  assert (code, output.splitlines()[-1]) == (cli.EXIT_TERMINATED, "exit functions are called"), output
