"""Adapter to parts of JAX's distributed runtime without a public name. The only module that imports jax._src.

| part | use |
|---|---|
| key-value store and barriers of the coordination service | text and status exchanged between processes |
| `cluster_register_timeout` of the coordination service | names the processes that do not join a launch in time |
| abort of JAX when process 0 dies | replaced by an error message and an exit code, see `exit_when_process_0_dies` |
"""

import contextlib
import ctypes
import errno
import faulthandler
import functools
import importlib
import os
import signal
import socket
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import jax

from clipvip_jax.utils.errors import UserError

SUPPORTED_JAX = "jax>=0.10,<0.12"

_DISTRIBUTED, _BINDINGS = "jax._src.distributed", "jax._src.lib"
# (module, attribute, arguments, which a C++ binding lists in its docstring)
_REQUIRED: tuple[tuple[str, str, tuple[str, ...]], ...] = (
  (_DISTRIBUTED, "global_state.client", ()),
  (_DISTRIBUTED, "global_state.coordinator_address", ()),
  (_BINDINGS, "_jax.get_distributed_runtime_service", ("cluster_register_timeout",)),
  (_BINDINGS, "_jax.DistributedRuntimeClient.key_value_set", ("key", "value", "allow_overwrite")),
  (_BINDINGS, "_jax.DistributedRuntimeClient.key_value_dir_get", ("key",)),
  (_BINDINGS, "_jax.DistributedRuntimeClient.wait_at_barrier", ("barrier_id", "timeout_in_ms")),
)

# Seconds in which process 0 must accept a connection, and errors of connections to a host that is down.
_CONNECT_SECONDS = 5
_UNREACHABLE = (errno.EHOSTUNREACH, errno.EHOSTDOWN, errno.ENETUNREACH)
_handlers: list[Any] = []  # references to C callbacks, which must outlive their registration


class KeyValueStore(Protocol):
  """The coordination service's key-value store, as a client in every process reaches it."""

  def key_value_set(self, key: str, value: str, allow_overwrite: bool = False) -> None:
    """Sets a key."""

  def key_value_dir_get(self, key: str) -> Sequence[tuple[str, str]]:
    """Returns (key, value) of all keys under a prefix."""

  def wait_at_barrier(self, barrier_id: str, timeout_in_ms: int) -> None:
    """Blocks until all processes have called it with the same id, which is used once."""


def check_compatibility() -> None:
  """Checks that the installed JAX has every private part that this module uses.

  Raises:
    UserError: names the version, the missing part and the supported versions.
  """
  for module, attribute, arguments in _REQUIRED:
    try:
      value = functools.reduce(getattr, attribute.split("."), importlib.import_module(module))
    except (ImportError, AttributeError):
      raise _incompatible(f"has no {module}.{attribute}") from None
    for argument in arguments:
      if f"{argument}: " not in (value.__doc__ or ""):
        raise _incompatible(f"has no argument {argument!r} in {module}.{attribute}")


def _incompatible(problem: str) -> UserError:
  return UserError(
    f"jax {jax.__version__} {problem}, which launches of several processes need; install a supported version:"
    f" pip install '{SUPPORTED_JAX}'"
  )


def key_value_store() -> KeyValueStore:
  """Returns the store of this launch. `jax.distributed.initialize` must have been called."""
  from jax._src import distributed

  client: Any = distributed.global_state.client
  return client


def coordinator_address() -> str:
  """Returns HOST:PORT of process 0, also where JAX detected it from the environment."""
  from jax._src import distributed

  return str(distributed.global_state.coordinator_address)


@contextlib.contextmanager
def registration_timeout(seconds: int) -> Iterator[None]:
  """Sets the coordination service's registration timeout for a call of `jax.distributed.initialize` in the block.

  The public `initialization_timeout` alone ends the wait with an error that does not name the absent processes.
  """
  from jax._src.lib import _jax

  service = _jax.get_distributed_runtime_service
  _jax.get_distributed_runtime_service = functools.partial(service, cluster_register_timeout=seconds)
  try:
    yield
  finally:
    _jax.get_distributed_runtime_service = service


def exit_when_process_0_dies(process: int, coordinator: str, exit_code: int) -> None:
  """Makes JAX's abort after the death of process 0 an error message and `exit_code`.

  Process 0 hosts the coordination service. When its connection breaks, JAX calls abort() from a C++ thread of every
  other process at once, so no watchdog in Python sees it first, and SIGABRT's exit code is that of any crash. This
  handler of SIGABRT therefore runs in C, through ctypes. It first tries to connect to process 0: if that succeeds, the
  abort has another cause, and the handler prints the stack traces and lets the abort proceed.

  No public interface gives this result (two CPU processes, process 0 killed, JAX 0.10.2; the first two also 0.11.2):

  - `jax_enable_recoverability` covers the death of other processes only: abort.
  - `missed_heartbeat_callback` of the runtime client, itself private, fails to convert its argument (std::bad_cast):
    abort.
  - `signal.signal(SIGABRT, ...)` never runs its Python handler: abort() does not return to the interpreter.
  - `signal.set_wakeup_fd` and a thread that reads it races with abort(): it won in 4 of 6 runs with an idle main
    thread, in 0 of 4 with a busy one.
  - `faulthandler` prints stack traces, and cannot set the exit code.

  Args:
    process: index of this process.
    coordinator: HOST:PORT of process 0.
    exit_code: of this process, after process 0 has died.
  """
  host, _, port = coordinator.rpartition(":")

  def on_abort(_: int) -> None:
    try:
      socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS).close()
    except OSError as error:
      if isinstance(error, ConnectionError | TimeoutError | socket.gaierror) or error.errno in _UNREACHABLE:
        message = f"process {process}: process 0, the coordinator of this launch, died or is unreachable ({error})"
        os.write(2, f"error: {message}; see its output, and start all processes again to resume\n".encode())
        os._exit(exit_code)
    faulthandler.dump_traceback()

  _handlers.append(ctypes.CFUNCTYPE(None, ctypes.c_int)(on_abort))
  ctypes.CDLL(None).signal(int(signal.SIGABRT), _handlers[-1])
