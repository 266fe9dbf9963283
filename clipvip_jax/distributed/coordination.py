"""Joins the processes of a launch, exchanges text and status between them, and shuts them down after errors.

Uses the key-value store of JAX's coordination service, which runs in process 0 and involves no device, so it works
before the mesh exists and while collectives hang.
"""

import dataclasses
import itertools
import json
import os
import sys
import time
from collections.abc import Sequence
from typing import Literal, NoReturn

import jax

from clipvip_jax.distributed import jax_internals
from clipvip_jax.distributed.jax_internals import key_value_store
from clipvip_jax.utils import signals
from clipvip_jax.utils.cli import EXIT_HUNG
from clipvip_jax.utils.errors import UserError, first_line
from clipvip_jax.utils.log import flush_output

# Seconds for all processes to join, and without heartbeats after which JAX ends a launch (watchdog.py is faster).
JOIN_SECONDS, HEARTBEAT_SECONDS = 300, 100
# Seconds for all processes to reach an all-gather. They wait for each other where one of them reads files.
ALLGATHER_SECONDS = 600
# Seconds that process 0 waits for the others after an error, in all and without a new status from them.
_SHUTDOWN_SECONDS, _SILENT_SECONDS = 40, 8
_allgather_ids = itertools.count()  # keys are used once; all processes make the same calls in the same order

State = Literal["alive", "done", "failed", "lost"]


@dataclasses.dataclass(frozen=True)
class Status:
  """The last status of a process; `message` explains "failed" and "lost", each update has another `version`."""

  state: State
  message: str
  version: float


def initialize(
  coordinator: str | None, num_processes: int | None, process_id: int | None, join_seconds: int = JOIN_SECONDS
) -> None:
  """Joins the processes of a launch. JAX detects arguments that are None from SLURM, Cloud TPU or MPI.

  If a process does not join in time, JAX aborts the others with an error that names it.

  Args:
    coordinator: HOST:PORT of process 0.
    num_processes: number of processes of the launch.
    process_id: index of this process.
    join_seconds: time limit for all processes to join.

  Raises:
    UserError: an argument is missing or invalid, or the installed JAX is not supported.
  """
  _check(coordinator, num_processes, process_id)
  jax_internals.check_compatibility()
  jax.config.update("jax_cpu_collectives_implementation", "gloo")  # CPU devices of several processes
  try:
    with jax_internals.registration_timeout(join_seconds):
      jax.distributed.initialize(
        coordinator,
        num_processes,
        process_id,
        initialization_timeout=join_seconds + 30,  # later than the service's, whose error names the absent processes
        heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
      )
  except (ValueError, jax.errors.JaxRuntimeError) as error:
    raise UserError(
      f"cannot join a distributed launch: {first_line(error)}. Pass --coordinator=HOST:PORT --num_processes=N "
      "--process_id=I, or launch under SLURM, Cloud TPU or MPI"
    ) from error
  if jax.process_index():
    jax_internals.exit_when_process_0_dies(jax.process_index(), jax_internals.coordinator_address(), EXIT_HUNG)
  signals.forward_to_sigterm()
  publish_status("alive")


def _check(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
  """Raises UserError for an invalid address or number."""
  _, colon, port = (coordinator or "").rpartition(":")
  if coordinator and not (colon and port.isdecimal() and 0 < int(port) < 2**16):
    raise UserError(f"--coordinator={coordinator} must be HOST:PORT, with a port from 1 to 65535")
  if num_processes is not None and num_processes < 1:
    raise UserError(f"--num_processes={num_processes} must be at least 1")
  if process_id is not None and not 0 <= process_id < (num_processes or process_id + 1):
    limit = f"from 0 to {num_processes - 1}" if num_processes else "at least 0"
    raise UserError(f"--process_id={process_id} must be {limit}")


def allgather_text(text: str) -> list[str]:
  """Gathers a text from every process, in order of their indices. All processes must call it.

  Raises:
    UserError: a process did not call it within ALLGATHER_SECONDS; names it.
  """
  if jax.process_count() == 1:
    return [text]
  prefix = f"clipvip_jax/allgather/{next(_allgather_ids)}"
  key_value_store().key_value_set(f"{prefix}/{jax.process_index()}", text)
  try:
    key_value_store().wait_at_barrier(prefix.replace("/", "_"), ALLGATHER_SECONDS * 1000)
  except jax.errors.JaxRuntimeError as error:
    absent = sorted(set(range(jax.process_count())) - _values_by_process(prefix).keys())
    raise UserError(
      f"{format_processes(absent)} did not reach the same point within {ALLGATHER_SECONDS} s; see the output there"
    ) from error
  return [text for _, text in sorted(_values_by_process(prefix).items())]


def _values_by_process(prefix: str) -> dict[int, str]:
  return {int(key.rsplit("/", 1)[1]): text for key, text in key_value_store().key_value_dir_get(prefix)}


def format_processes(processes: Sequence[int]) -> str:
  """Formats indices of processes: `process 1`, `processes 1, 2`."""
  return f"process{'es' if len(processes) > 1 else ''} {', '.join(map(str, processes))}"


def raise_on_all_processes(problem: str) -> None:
  """Raises the same error on all processes if any of them has a problem. All processes must call it.

  Args:
    problem: an error message; "" for none.

  Raises:
    UserError: the problem of the first process that has one.
  """
  problems = allgather_text(problem)
  for process, text in enumerate(problems):
    if text:
      raise UserError(text if len(problems) == 1 else f"process {process}: {text}")


def publish_status(state: State, message: str = "", process: int | None = None) -> None:
  """Publishes the status of a process to all others.

  Args:
    state: "alive", "done", "failed", or "lost", which others publish for a process that died.
    message: the reason of "failed" or "lost".
    process: None for this process.
  """
  process = jax.process_index() if process is None else process
  text = json.dumps([state, message, time.monotonic()])
  key_value_store().key_value_set(f"clipvip_jax/status/{process}", text, allow_overwrite=True)


def read_statuses() -> dict[int, Status]:
  """Returns the last status of every process that has published one."""
  return {process: Status(*json.loads(text)) for process, text in _values_by_process("clipvip_jax/status").items()}


def shutdown(exit_code: int, message: str) -> NoReturn:
  """Ends this process of a launch after an error, without running exit handlers.

  JAX's exit handler waits for the other processes, which may wait for this one: a deadlock. Process 0 exits last, since
  it hosts the coordination service through which the others read each other's status.
  """
  try:
    publish_status("failed", message)
    if jax.process_index() == 0:
      _wait_for_others()
  except jax.errors.JaxRuntimeError:
    pass  # the coordination service is down
  finally:
    flush_output(sys.stdout)
    flush_output(sys.stderr)
    os._exit(exit_code)


def _wait_for_others() -> None:
  """Waits until every other process has published its end or stopped updating its status."""
  last_seen: dict[int, tuple[Status, float]] = {}
  deadline = time.monotonic() + _SHUTDOWN_SECONDS
  while (now := time.monotonic()) < deadline:
    for process, status in read_statuses().items():
      if process not in last_seen or last_seen[process][0] != status:
        last_seen[process] = status, now
    if all(status.state != "alive" or now - since > _SILENT_SECONDS for status, since in last_seen.values()):
      break
    time.sleep(0.2)
  time.sleep(0.5)  # a process publishes its end just before it exits
