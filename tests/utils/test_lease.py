"""Locks in object stores: two runs, runs that were killed, and runs that lost it."""

import json
import subprocess
import sys
import time

import pytest

from clipvip_jax.utils import lease as leases
from clipvip_jax.utils import storage, transfers
from clipvip_jax.utils.errors import UserError

HOLDER = "import sys, time; from clipvip_jax.utils.lease import Lease; from clipvip_jax.utils import storage;"


@pytest.fixture
def workdir(bucket):
  return storage.absolute(bucket / "runs/a")


def held_lease(workdir):
  return leases.held_lease(workdir / "lock", f"--workdir={workdir}", "run")


@pytest.fixture
def quick(monkeypatch):
  monkeypatch.setattr(leases, "RENEW_SECONDS", 0.2)
  monkeypatch.setattr(leases, "EXPIRY_SECONDS", 1.5)
  monkeypatch.setattr(leases, "POLL_SECONDS", 0.05)


def write_holder(bucket, **changes):
  """The lock of a run on another host."""
  holder = {"host": "elsewhere", "pid": 7, "start": "2026-01-01T00:00:00+00:00", "renewed": "2026-01-01T00:00:00+00:00"}
  bucket.write("runs/a/lock", json.dumps({**holder, **changes}).encode())


def test_a_lock_names_its_holder_and_is_deleted_in_the_end(bucket, workdir):
  with held_lease(workdir) as lease:
    lease.check_held()
    holder = json.loads(bucket.read("runs/a/lock"))
    assert {"host", "pid", "start", "renewed"} <= holder.keys()
    assert json.loads(leases.read_holder(workdir / "lock")) == [holder[name] for name in ("host", "pid", "start")]
  assert bucket.sizes() == {} and leases.read_holder(workdir / "lock") == ""


def test_a_second_run_on_this_host_is_refused_at_once(workdir):
  with held_lease(workdir):
    start = time.monotonic()
    with pytest.raises(UserError) as refused, held_lease(workdir):
      pass
    assert time.monotonic() - start < 5
  message = str(refused.value)
  assert message.startswith(f"--workdir={workdir} is in use by process ") and " started 2" in message
  assert message.endswith("; wait until it ends, stop it, or choose another folder")


@pytest.mark.usefixtures("quick")
def test_a_run_on_another_host_is_refused_while_the_first_renews(bucket, workdir, monkeypatch):
  monkeypatch.setattr(leases, "EXPIRY_SECONDS", 60.0)
  with held_lease(workdir):
    monkeypatch.setattr(leases.socket, "gethostname", lambda: "other")
    with pytest.raises(UserError, match=r"is in use by process \d+ on "), held_lease(workdir):
      pass


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("holder", [{}, {"renewed": "no time"}, {"host": 5, "pid": [], "start": None}])
def test_a_lock_that_is_not_renewed_is_taken_over(bucket, workdir, holder, caplog):
  write_holder(bucket, **holder)
  start = time.monotonic()
  with held_lease(workdir) as lease:
    lease.check_held()
    assert json.loads(bucket.read("runs/a/lock"))["host"] != "elsewhere"
  assert time.monotonic() - start >= 0.3 and "took over the lock of process" in caplog.text


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff"])
def test_a_corrupt_lock_expires_as_well(bucket, workdir, content):
  bucket.write("runs/a/lock", content)
  with held_lease(workdir) as lease:
    lease.check_held()


@pytest.mark.parametrize("processes", [1, 2])
def test_the_lock_of_a_killed_process_of_this_host_is_taken_over_at_once(
  bucket, workdir, processes, monkeypatch, caplog
):
  arguments = f"storage.absolute({str(workdir)!r}) / 'lock', 'x', 'run', {processes}"
  code = f"{HOLDER} Lease({arguments}); print(1, flush=True); time.sleep(99)"
  process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
  assert process.stdout.readline() == "1\n"
  with pytest.raises(UserError, match=rf"is in use by process {process.pid} on"), held_lease(workdir):
    pass
  process.kill()
  process.wait()
  process.stdout.close()
  monkeypatch.setattr(leases, "EXPIRY_SECONDS", 2.0)
  caplog.set_level("INFO", "clipvip_jax")
  start = time.monotonic()
  with held_lease(workdir) as lease:
    lease.check_held()
  # Other processes of a launch may still be writing.
  assert ("waiting whether it is running" in caplog.text) == (processes == 2)
  assert processes == 1 or time.monotonic() - start >= 2


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("stolen", [True, False])
def test_a_run_that_lost_its_lock_is_stopped_with_words(bucket, workdir, stolen, caplog):
  with held_lease(workdir) as lease:
    if stolen:
      write_holder(bucket)
    else:
      (workdir / "lock").unlink()
    with pytest.raises(UserError) as lost:
      lease.check_held()
    assert lease.is_lost
  reason = "was taken over by process 7 on elsewhere, started 2026-01-01" if stolen else "was deleted; stopped"
  assert f"--workdir={workdir}: this run lost its lock, which {reason}" in str(lost.value)
  assert ("runs/a/lock" in bucket.sizes()) == stolen  # that of the other run remains


@pytest.mark.usefixtures("quick", "quick_retries")
def test_a_store_that_is_away_for_a_while_is_survived(bucket, workdir, monkeypatch):
  monkeypatch.setattr(transfers, "RETRY_DELAYS", (0.01,) * 2)
  with held_lease(workdir) as lease:
    with bucket.faults(rate=1.0, kinds=("500",)):
      time.sleep(0.5)
      with pytest.raises(UserError, match="refuses requests for the moment"):
        lease.check_held()
    lease.check_held()
    assert not lease.is_lost
