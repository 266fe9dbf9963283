"""Signals that stop a command: SIGTERM, SIGHUP and SIGINT (Ctrl-C).

The first signal raises `Terminated` in the main thread at once, or, while steps are not saved (`defer`), when they are
(`allow`, `interruptible`). Later signals are ignored, so that none interrupts the write of a checkpoint. SIGQUIT
(Ctrl-\\) and SIGKILL are not handled.
"""

import contextlib
import dataclasses
import enum
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

from clipvip_jax.utils import unraisable
from clipvip_jax.utils.errors import Terminated
from clipvip_jax.utils.log import log

SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
# Seconds for the main thread to run a signal handler. It cannot while it compiles, which takes minutes in C++.
NOTICE_SECONDS = 5.0
_REPEAT_SECONDS = 0.05  # until a signal is repeated that was handled where nothing can be raised


class _Mode(enum.Enum):
  END = enum.auto()  # nothing is lost if the process ends at any time
  LEAVE = enum.auto()  # the block can be left, but a write may be in progress
  DEFER = enum.auto()  # steps are not saved


@dataclasses.dataclass
class _State:
  """State of this process' handlers; `received` is the first signal, 0 for none."""

  mode: _Mode = _Mode.END
  note: str = "stopped; run the same command again"
  received: int = 0
  raised: bool = False
  installed: bool = False
  forwards: bool = False
  noticed: threading.Event = dataclasses.field(default_factory=threading.Event)


_state = _State()


def install() -> None:
  """Handles the signals, except ignored ones, as by nohup, until the process ends. Called from the main thread."""
  _state.installed = True
  unraisable.handle(_repeat_if_lost)
  for number in SIGNALS:
    if signal.getsignal(number) is not signal.SIG_IGN:
      signal.signal(number, _on_signal)
  reader, writer = os.pipe()
  os.set_blocking(writer, False)
  signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
  os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))  # a signal to a child is none to this process
  threading.Thread(target=_end_if_not_noticed, args=(reader,), name="signals", daemon=True).start()


def ignore() -> None:
  """Ignores the signals, if they are handled: the outcome of the command is decided."""
  if _state.installed:
    for number in SIGNALS:
      signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def handled() -> Iterator[None]:
  """Handles the signals inside a `with` block, for callers without `install`. No effect outside the main thread."""
  previous = {}
  if not _state.installed and threading.current_thread() is threading.main_thread():
    previous = {number: signal.signal(number, _on_signal) for number in SIGNALS}
    unraisable.handle(_repeat_if_lost)
  try:
    yield
  finally:
    _state.mode, _state.note = _State.mode, _State.note
    for number, handler in previous.items():
      signal.signal(number, handler)
    if previous:
      _state.received, _state.raised = 0, False


def forward_to_sigterm() -> None:
  """Turns the other signals into SIGTERM, which JAX handles in a launch of several processes."""
  _state.forwards = True


def received() -> int:
  """Returns the first signal that was received, 0 if there was none."""
  return _state.received


def note() -> str:
  """Returns what is saved if the command ends now, and what to do."""
  return _state.note


def defer() -> None:
  """Defers signals from now on: there are steps to save."""
  _state.mode = _Mode.DEFER


def allow(note: str) -> None:
  """Ends the process at signals from now on: all steps are saved.

  Args:
    note: what is saved, and what to do, for the message.

  Raises:
    Terminated: a signal was deferred.
  """
  _state.mode, _state.note = _Mode.END, note
  _raise_if_received()


@contextlib.contextmanager
def interruptible(note: str) -> Iterator[None]:
  """Does not defer signals inside a `with` block, which has nothing to save. A checkpoint may be written meanwhile.

  Args:
    note: as of `allow`.

  Raises:
    Terminated: a signal was deferred, or is received in the block.
  """
  previous = _state.mode, _state.note
  _state.mode, _state.note = _Mode.LEAVE, note
  try:
    _raise_if_received()
    yield
  finally:
    _state.mode, _state.note = previous


def _on_signal(number: int, _: FrameType | None) -> None:
  _state.noticed.set()
  if _state.forwards:
    os.kill(os.getpid(), signal.SIGTERM)
    return
  _state.received = _state.received or number
  _raise_if_received()


def _raise_if_received() -> None:
  if _state.received and not _state.raised and _state.mode is not _Mode.DEFER:
    _state.raised = True
    raise Terminated(_state.received, _state.note)


def _repeat_if_lost(lost: "sys.UnraisableHookArgs") -> bool:
  """Repeats a signal whose `Terminated` was raised in a callback, as of the garbage collector, and so lost."""
  if not isinstance(lost.exc_value, Terminated):
    return False
  _state.raised = False
  threading.Timer(_REPEAT_SECONDS, os.kill, (os.getpid(), _state.received)).start()
  return True


def _end_if_not_noticed(reader: int) -> None:
  """Ends the process after a signal that the main thread does not notice in time, if nothing is lost by that."""
  while number := os.read(reader, 1):
    if number[0] not in SIGNALS or _state.noticed.wait(NOTICE_SECONDS):
      continue
    if _state.forwards or _state.mode is not _Mode.END:
      continue
    stop = Terminated(number[0], _state.note)
    log.info("%s", stop)
    os._exit(stop.exit_code)
