"""The lock of a build, on disks and in buckets."""

import errno
import os

import pytest
from etils import epath

from clipvip_jax.data.engine import build_lock
from clipvip_jax.utils import storage
from clipvip_jax.utils.errors import UserError


def test_one_build_at_a_time(bucket, tmp_path):
  for folder, message in (
    (epath.Path(tmp_path / "new/1.0.0.building"), "another process is building this corpus; wait for it, or stop it"),
    (storage.absolute(bucket / "1.0.0.building"), "is in use by process .*; wait until it ends, stop it, or choose"),
  ):
    with build_lock.locked(folder), pytest.raises(UserError, match=f"{folder}:? {message}"), build_lock.locked(folder):
      pytest.fail("locked twice")
    with build_lock.locked(folder):
      pass


@pytest.mark.parametrize(
  ("number", "remedy"),
  [(errno.ENOSPC, "free disk space"), (errno.EMFILE, "raise the limit with ulimit"), (errno.ENFILE, "raise the limit")],
)
def test_errors_of_the_machine_are_reported(tmp_path, number, remedy):
  reason = os.strerror(number)
  message = f"building: {reason}. Completed shards are kept; {remedy}"
  with pytest.raises(UserError, match=message), build_lock.locked(epath.Path(tmp_path / "building")):
    raise OSError(number, reason)
