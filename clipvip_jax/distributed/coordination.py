"""The processes of one launch: how they come together, tell each other things, and leave.

They speak through JAX's coordination service, which lives in process 0 and needs no device.
"""

import contextlib
import ctypes
import errno
import faulthandler
import functools
import itertools
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

import jax
from jax._src import distributed  # its key-value store has no public name
from jax._src.lib import _jax

from clipvip_jax.utils.cli import EXIT_HUNG
from clipvip_jax.utils.errors import UserError, first_line

# Seconds: for all processes to come, and after which JAX counts one as lost that is silent (watchdog.py is sooner).
JOIN, HEARTBEAT = 300, 100
# Seconds that process 0 waits for others to leave after an error, and without a word of theirs.
_LEAVE, _SILENT = 40, 8
# Seconds that processes wait for each other where one has files to read.
_PATIENCE = 600
# Seconds in which process 0 answers when it is asked whether it is there, and errors of hosts that are gone.
_ANSWER = 5
_UNREACHABLE = (errno.EHOSTUNREACH, errno.EHOSTDOWN, errno.ENETUNREACH)
_kept: list[Any] = []  # handlers, which C knows and Python must not forget
_round = itertools.count()  # every exchange has a name of its own; all processes make the same ones


def initialize(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
  """Joins the processes of a launch into one; what is None, JAX finds in SLURM's, Cloud TPU's or MPI's environment.

  A process that does not come within JOIN seconds ends the others, and JAX names it.

  Raises:
    UserError: the launch does not say enough, or says what cannot be.
  """
  _check(coordinator, num_processes, process_id)
  jax.config.update("jax_cpu_collectives_implementation", "gloo")  # CPU devices of several processes
  try:
    with _absent_are_named():
      jax.distributed.initialize(
        coordinator,
        num_processes,
        process_id,
        initialization_timeout=JOIN + 30,  # the service, which knows who is absent, speaks first
        heartbeat_timeout_seconds=HEARTBEAT,
      )
  except (ValueError, jax.errors.JaxRuntimeError) as error:
    raise UserError(
      f"cannot join a distributed launch: {first_line(error)}. Name it with --coordinator=HOST:PORT --num_processes=N "
      "--process_id=I, or launch under SLURM, Cloud TPU or MPI"
    ) from error
  if jax.process_index():
    name_process_0_where_jax_aborts(jax.process_index(), str(distributed.global_state.coordinator_address))
  publish_status("alive")


def name_process_0_where_jax_aborts(process: int, coordinator: str) -> None:
  """Where JAX aborts `process` because process 0 is gone, says so and ends it with STUCK.

  JAX aborts in C++, calls it "the leader" and runs no Python, so this is a handler of the signal itself. Process 0 is
  asked first; where it answers, the abort is another, which shows its stacks and goes on.
  """
  host, _, port = coordinator.rpartition(":")

  def aborted(_: int) -> None:
    try:
      socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER).close()
    except OSError as error:
      if isinstance(error, ConnectionError | TimeoutError | socket.gaierror) or error.errno in _UNREACHABLE:
        words = f"process {process}: process 0, which holds the launch together, is no more ({error})"
        os.write(2, f"error: {words}\n".encode())
        os._exit(EXIT_HUNG)
    faulthandler.dump_traceback()

  _kept.append(ctypes.CFUNCTYPE(None, ctypes.c_int)(aborted))
  ctypes.CDLL(None).signal(int(signal.SIGABRT), _kept[-1])


def _check(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
  """Raises UserError for an address or numbers that cannot be."""
  _, colon, port = (coordinator or "").rpartition(":")
  if coordinator and not (colon and port.isdecimal() and 0 < int(port) < 2**16):
    raise UserError(f"--coordinator={coordinator} must be HOST:PORT, with a port from 1 to 65535")
  if num_processes is not None and num_processes < 1:
    raise UserError(f"--num_processes={num_processes} must be at least 1")
  if process_id is not None and not 0 <= process_id < (num_processes or process_id + 1):
    raise UserError(f"--process_id={process_id}: processes of a launch of {num_processes} are numbered from 0")


@contextlib.contextmanager
def _absent_are_named() -> Iterator[None]:
  """Gives the coordination service a time-out, for which JAX has no option; without it nobody knows who is absent."""
  service = _jax.get_distributed_runtime_service
  _jax.get_distributed_runtime_service = functools.partial(service, cluster_register_timeout=JOIN)
  try:
    yield
  finally:
    _jax.get_distributed_runtime_service = service


def _store() -> Any:
  return distributed.global_state.client


def allgather_text(text: str) -> list[str]:
  """Every process' text, in their order. All processes of the launch must call it.

  Raises:
    UserError: a process did not come in time.
  """
  if jax.process_count() == 1:
    return [text]
  here = f"clipvip_jax/exchange/{next(_round)}"
  _store().key_value_set(f"{here}/{jax.process_index()}", text)
  try:
    _store().wait_at_barrier(here.replace("/", "_"), _PATIENCE * 1000)
  except jax.errors.JaxRuntimeError as error:
    absent = sorted(set(range(jax.process_count())) - _read(here).keys())
    raise UserError(f"{format_processes(absent)} did not come within {_PATIENCE} s; see the output there") from error
  return [text for _, text in sorted(_read(here).items())]


def _read(folder: str) -> dict[int, str]:
  """{process: what it wrote there}."""
  return {int(key.rsplit("/", 1)[1]): text for key, text in _store().key_value_dir_get(folder)}


def format_processes(processes: Sequence[int]) -> str:
  """`process 1`, `processes 1, 2`."""
  return f"process{'es' if len(processes) > 1 else ''} {', '.join(map(str, processes))}"


def raise_on_all_processes(problem: str) -> None:
  """Ends all processes where one of them has a problem, "" being none. All processes must call it.

  Raises:
    UserError: the problem of the first process that has one.
  """
  problems = allgather_text(problem)
  for process, found in enumerate(problems):
    if found:
      raise UserError(found if len(problems) == 1 else f"process {process}: {found}")


def publish_status(state: str, words: str = "", process: int | None = None) -> None:
  """Tells all processes how this one is, "alive", "done" or "failed" with words, and that it said so now.

  Args:
    process: another one, which is "lost" and can say nothing more.
  """
  process = distributed.global_state.process_id if process is None else process
  text = json.dumps([state, words, time.monotonic()])
  _store().key_value_set(f"clipvip_jax/state/{process}", text, allow_overwrite=True)


def read_statuses() -> dict[int, list[Any]]:
  """{process: [state, words, a number that is another whenever it said something]}."""
  return {process: json.loads(text) for process, text in _read("clipvip_jax/state").items()}


def shutdown(code: int, words: str) -> NoReturn:
  """Ends this process of a launch of several, after an error.

  The way out through the interpreter's end would wait for the others, which wait for this one. Process 0 leaves last:
  with it goes what the others hear of each other by.
  """
  try:
    publish_status("failed", words)
    if jax.process_index() == 0:
      _see_off()
  except jax.errors.JaxRuntimeError:
    pass  # there is nobody to tell
  finally:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _see_off() -> None:
  """Waits until every other process has ended, by its word or by its silence."""
  heard: dict[int, tuple[Any, float]] = {}
  deadline = time.monotonic() + _LEAVE
  while (now := time.monotonic()) < deadline:
    for process, said in read_statuses().items():
      if process not in heard or heard[process][0] != said:
        heard[process] = said, now
    if all(said[0] != "alive" or now - when > _SILENT for said, when in heard.values()):
      break
    time.sleep(0.2)
  time.sleep(0.5)  # whoever said that it ends is gone by then
