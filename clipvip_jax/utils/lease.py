"""Locks in object stores: an object that its holder renews, as no kernel releases it when the holder dies.

Every change of the object is conditional, so one of several processes wins. It names the holder for the messages. A
lock that is not renewed for a minute may be taken over; its former holder finds out at its next save at the latest.
"""

import contextlib
import datetime
import json
import os
import pathlib
import re
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

from etils import epath

from clipvip_jax.utils import conditional_write
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import log, printable
from clipvip_jax.utils.time_limit import call_within

RENEW_SECONDS = 10.0
EXPIRY_SECONDS = 60.0  # without a renewal, as another process observes it
# Seconds after which a lock is old by the clocks of two hosts; the next process then observes it for a shorter time.
OLD_SECONDS = 600.0
POLL_SECONDS = 1.0
RELEASE_SECONDS = 30.0  # for its deletion at the end


class Lease:
  """A lock that this process holds."""

  def __init__(self, path: epath.Path, where: str, kind: str, num_processes: int = 1):
    """Acquires the lock. Waits, for a minute at most, where its last holder ended without releasing it.

    Args:
      path: of the lock.
      where: what it locks, for messages, as in "--workdir=gs://bucket/run".
      kind: what holds it, as in "run".
      num_processes: of the launch; others of them may survive the one that holds the lock.

    Raises:
      UserError: another process holds the lock, or the bucket cannot be written.
    """
    self._path, self._where, self._kind = path, where, kind
    self._holder = {**_this_process(), "processes": num_processes, "start": _now()}
    self._mutex, self._closed = threading.Lock(), threading.Event()
    self._lost = ""
    self._token = self._acquire()
    self._thread = threading.Thread(target=self._renew_until_closed, name="lease", daemon=True)
    self._thread.start()

  @property
  def is_lost(self) -> bool:
    """Whether another process was seen to have taken the lock over."""
    return bool(self._lost)

  def check_held(self) -> None:
    """Renews the lock.

    Raises:
      UserError: another process has taken it over, it was deleted, or the bucket cannot be written.
    """
    self._renew()
    if self._lost:
      raise UserError(
        f"{self._where}: this {self._kind} lost its lock, which {self._lost}; stopped. What it saved remains; run the"
        f" same command to resume when no other {self._kind} uses this folder"
      )

  def release(self) -> None:
    """Deletes the lock. If that fails, it expires."""
    self._closed.set()
    self._thread.join(RENEW_SECONDS)
    try:
      if self._thread.is_alive():  # it waits for a store that does not answer
        raise UserError("the bucket does not answer")
      if not self._lost:
        call_within(RELEASE_SECONDS, lambda: conditional_write.delete(self._path, self._token))
    except (UserError, OSError) as error:
      log.warning("the lock of this %s remains and expires in %d seconds (%s)", self._kind, EXPIRY_SECONDS, error)

  def _acquire(self) -> str:
    """Returns the token of the lock."""
    observed, since = "", 0.0
    while True:
      current = conditional_write.read(self._path)
      if current is None:
        if token := conditional_write.create_exclusive(self._path, self._content()):
          return token
        continue
      holder, token = _parse(current[0]), current[1]
      if _is_running_here(holder) or observed not in ("", token):
        raise UserError(
          f"{self._where} is in use by {_describe(holder)}; wait until it ends, stop it, or choose another folder"
        )
      if not observed and not _is_dead(holder):
        log.info("%s is locked by %s; waiting whether it is running", self._where, _describe(holder))
        observed, since = token, time.monotonic()
      if _is_dead(holder) or time.monotonic() - since >= _patience(holder):
        if taken := conditional_write.replace(self._path, self._content(), token):
          log.warning("took over the lock of %s, which ended without releasing it", _describe(holder))
          return taken
        continue
      time.sleep(POLL_SECONDS)

  def _content(self) -> bytes:
    content = {**self._holder, "renewed": _now(), "nonce": secrets.token_hex(8)}
    return (json.dumps(content) + "\n").encode()

  def _renew(self) -> None:
    with self._mutex:
      if self._lost:
        return
      token = conditional_write.replace(self._path, self._content(), self._token)
      if token is not None:
        self._token = token
        return
      current = conditional_write.read(self._path)
      self._lost = "was deleted" if current is None else f"was taken over by {_describe(_parse(current[0]))}"

  def _renew_until_closed(self) -> None:
    while not self._closed.wait(RENEW_SECONDS) and not self._lost:
      try:
        self._renew()
      except Exception as error:  # a network that is down; the next renewal may succeed
        log.warning("the lock of this %s could not be renewed (%s)", self._kind, printable(error))
    if self._lost:
      log.warning("%s: the lock of this %s %s; stopping at the next save", self._where, self._kind, self._lost)


@contextlib.contextmanager
def held_lease(path: epath.Path, where: str, kind: str, num_processes: int = 1) -> Iterator[Lease]:
  """Holds a lock inside a `with` block; see `Lease`.

  Raises:
    UserError: another process holds it, or the bucket cannot be written.
  """
  lease = Lease(path, where, kind, num_processes)
  try:
    yield lease
  finally:
    lease.release()


def read_holder(path: epath.Path) -> str:
  """Returns host, process and start of the holder of a lock; "" if it is not locked."""
  current = conditional_write.read(path)
  holder = _parse(current[0]) if current else {}
  return json.dumps([holder.get(name) for name in ("host", "pid", "start")]) if holder else ""


def _this_process() -> dict[str, Any]:
  """Returns what identifies this process among those of all hosts, and since their last start."""
  return {
    "host": socket.gethostname(),
    "pid": os.getpid(),
    "boot": _read("/proc/sys/kernel/random/boot_id"),
    "namespace": _namespace(),
    "process_start": _process_start(os.getpid()),
  }


def _read(path: str) -> str:
  try:
    return pathlib.Path(path).read_text(encoding="utf-8").strip()
  except OSError:  # another system than Linux, or no such process
    return ""


def _namespace() -> str:
  try:
    return os.fspath(pathlib.Path("/proc/self/ns/pid").readlink())
  except OSError:
    return ""


def _process_start(pid: object) -> str:
  """Returns the start time of a process of this host, in ticks since its start; "" if there is no such process."""
  fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
  return "" if not fields or fields[0] in "ZX" else fields[19]  # a zombie has ended


def _is_here(holder: dict[str, Any]) -> bool:
  """Returns whether a holder is known to be, or to have been, a process of this host."""
  this = _this_process()
  return bool(this["boot"]) and all(holder.get(name) == this[name] for name in ("host", "boot", "namespace"))


def _is_running_here(holder: dict[str, Any]) -> bool:
  return _is_here(holder) and _process_start(holder.get("pid")) == holder.get("process_start") != ""


def _is_dead(holder: dict[str, Any]) -> bool:
  """Returns whether the holder and all processes of its launch are known to have ended."""
  return _is_here(holder) and holder.get("processes") == 1 and not _is_running_here(holder)


def _patience(holder: dict[str, Any]) -> float:
  """Returns the seconds without a renewal after which a lock may be taken over."""
  try:
    age = (datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(holder["renewed"])).total_seconds()
  except (KeyError, TypeError, ValueError):
    age = 0.0
  return 1.5 * RENEW_SECONDS if age > OLD_SECONDS else EXPIRY_SECONDS


def _now() -> str:
  return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _parse(content: bytes) -> dict[str, Any]:
  try:
    holder = json.loads(content)
  except ValueError:
    return {}
  return holder if isinstance(holder, dict) else {}


def _describe(holder: dict[str, Any]) -> str:
  if not {"host", "pid", "start", "renewed"} <= holder.keys():
    return "a process that has not recorded its host and id"
  fields = {name: printable(re.sub(r"\s", " ", str(holder[name])), 80) for name in ("host", "pid", "start", "renewed")}
  return "process {pid} on {host}, started {start}, last seen {renewed}".format(**fields)
