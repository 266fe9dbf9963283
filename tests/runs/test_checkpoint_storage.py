"""Checkpoints in buckets: which are kept, trusted and restored, whatever happens to objects and to the local folder."""

import os
import shutil
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from clipvip_jax.runs import checkpoint_storage
from clipvip_jax.runs.checkpoint import Checkpoints
from clipvip_jax.runs.checkpoint_copy import COMMIT_FILE
from clipvip_jax.runs.train_state import TrainState
from clipvip_jax.utils import file_digests
from clipvip_jax.utils.errors import UserError


def state(step):
  params = {"w": jnp.arange(1000.0) + step, "b": jnp.full((3, 5), float(step))}
  return TrainState(jnp.int32(step), params, {"m": jnp.full(7, step * 0.5)})


ABSTRACT = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state(0))


def open_checkpoints(bucket, scratch, keep=2):
  return Checkpoints(scratch / "checkpoints", keep, 10, remote=epath.Path(bucket / "run/checkpoints"))


def save(bucket, scratch, scores, keep=2):
  checkpoints = open_checkpoints(bucket, scratch, keep)
  for step, score in scores.items():
    checkpoints.save(state(step), {"next_record": 10 * step})
    if score is not None:
      checkpoints.set_score(step, score)
  checkpoints.close()


def resume(bucket, scratch):
  """The step of the newest checkpoint that can be restored, whose content is compared."""
  checkpoints = open_checkpoints(bucket, scratch)
  restored, position = checkpoints.restore_latest(ABSTRACT)
  checkpoints.close()
  jax.tree.map(np.testing.assert_array_equal, restored, state(int(restored.step)))
  assert position == {"next_record": 10 * int(restored.step)}
  return int(restored.step)


def names(bucket, step):
  prefix = f"run/checkpoints/{step}/"
  return sorted(name.removeprefix(prefix) for name in bucket.sizes() if name.startswith(prefix))


@pytest.fixture
def two(bucket, tmp_path):
  """A bucket with the checkpoints of steps 1, which has a score, and 2."""
  save(bucket, tmp_path / "writer", {1: 0.5, 2: None})
  return bucket


def test_keeps_the_newest_and_the_best_without_the_local_folder(bucket, tmp_path):
  save(bucket, tmp_path / "a", {1: 0.2, 2: 0.9, 3: 0.5, 4: None, 5: 0.1})
  checkpoints = open_checkpoints(bucket, tmp_path / "b")
  assert checkpoints.steps() == [2, 4, 5] and checkpoints.best_step() == 2 and checkpoints.newest_committed() == 5
  assert [bool(names(bucket, step)) for step in range(1, 6)] == [False, True, False, True, True]
  assert int(checkpoints.restore_best(ABSTRACT).step) == 2
  assert int(checkpoints.restore_latest(ABSTRACT)[0].step) == 5


@pytest.mark.parametrize("missing", [COMMIT_FILE, file_digests.NAME])
def test_a_checkpoint_without_a_commit_file_is_not_trusted(two, tmp_path, missing):
  (epath.Path(two / "run/checkpoints/2") / missing).unlink()
  assert resume(two, tmp_path / "other") == 1
  save(two, tmp_path / "other", {2: None})
  assert resume(two, tmp_path / "third") == 2


@pytest.mark.parametrize("change", ["flip", "truncate", "delete"])
def test_a_corrupt_object_is_not_restored_and_its_checkpoint_is_kept_apart(two, tmp_path, change):
  name = max((name for name in two.sizes() if "/2/state/" in name), key=two.sizes().get)
  content = bytearray(two.read(name))
  if change == "flip":
    content[len(content) // 2] ^= 4
  if change == "delete":
    epath.Path(two / name).unlink()
  else:
    two.write(name, bytes(content[: len(content) // (2 if change == "truncate" else 1)]))
  expected = names(two, 2)
  assert resume(two, tmp_path / "other") == 1
  moved = sorted(key for key in two.sizes() if key.startswith("run/corrupt_checkpoints/2/"))
  assert [key.removeprefix("run/corrupt_checkpoints/2/") for key in moved] == expected and not names(two, 2)


def test_a_local_folder_of_another_time_is_updated(two, tmp_path):
  shutil.copytree(tmp_path / "writer", tmp_path / "stale")
  (tmp_path / "stale/checkpoints/7").mkdir()  # was never uploaded
  save(two, tmp_path / "writer", {3: 0.25})
  assert resume(two, tmp_path / "stale") == 3
  assert not (tmp_path / "stale/checkpoints/7").exists()


def test_a_store_that_does_not_answer_is_no_corrupt_checkpoint(two, tmp_path, quick_retries, monkeypatch):
  checkpoints = open_checkpoints(two, tmp_path / "other")
  before = two.sizes()
  monkeypatch.setattr("time.sleep", lambda seconds: None)
  refusal = pytest.raises(UserError, match=rf"{two.name} refuses requests for the moment")
  with two.faults(rate=1.0, kinds=["500"]), refusal:
    checkpoints.restore_latest(ABSTRACT)
  assert two.sizes() == before


def test_a_save_into_a_store_that_does_not_answer_fails_in_one_line(s3_bucket, tmp_path, quick_retries, monkeypatch):
  save(s3_bucket, tmp_path / "a", {1: None})
  checkpoints = open_checkpoints(s3_bucket, tmp_path / "a")
  monkeypatch.setattr("time.sleep", lambda seconds: None)
  with s3_bucket.faults(rate=1.0, kinds=["500"], match="^PUT"):
    checkpoints.save(state(2), {"next_record": 20})
    with pytest.raises(UserError, match=rf"{s3_bucket.name} refuses requests for the moment; try") as error:
      checkpoints.wait()
  assert "\n" not in str(error.value) and checkpoints.newest_committed() == 1
  assert resume(s3_bucket, tmp_path / "a") == 1, "what is not in the bucket does not count"


def test_several_hosts_are_refused_by_name_on_s3(s3_bucket, tmp_path, monkeypatch):
  monkeypatch.setattr(checkpoint_storage, "allgather_text", lambda text: [text, "node-b"])
  with pytest.raises(UserError, match=r"s3://.*several \(.*node-b.*\); use a --workdir on gs:// or in a folder that"):
    open_checkpoints(s3_bucket, tmp_path)


@pytest.mark.slow
def test_faults_lose_nothing_and_change_nothing(bucket, tmp_path, quick_retries, monkeypatch):
  monkeypatch.setattr("time.sleep", lambda seconds: None)
  for seed in range(20):
    with bucket.faults(seed=seed, rate=0.05, slow_seconds=0.01):
      save(bucket, tmp_path / f"{seed}", {2 * seed + 1: seed / 20, 2 * seed + 2: None})
      assert resume(bucket, tmp_path / f"{seed}") == 2 * seed + 2
  checkpoints = open_checkpoints(bucket, tmp_path / "other")
  assert checkpoints.steps() == [39, 40] and checkpoints.best_step() == 39
  assert not any("corrupt_checkpoints" in name for name in bucket.sizes())


def test_settings_of_a_bucket_that_are_not_permitted_are_reported_before_work_starts(gs_bucket, tmp_path):
  refusal = pytest.raises(UserError, match=r"which Orbax reads, .*grant them the role Storage Legacy Bucket Reader")
  with gs_bucket.faults(rate=1.0, kinds=["403"], match=r"GET (/storage/v1)?/b/[\w-]+(\?|$)"), refusal:
    open_checkpoints(gs_bucket, tmp_path)


SILENCED = """
import pathlib, sys, time, urllib.request
from clipvip_jax.utils import storage_clients, transfers
storage_clients.SILENCE_SECONDS, transfers.RETRY_SECONDS, transfers.NOTICE_SECONDS = 1, 3, 2
storage_clients.TENSORSTORE_RETRIES["max_retries"] = 2
from test_checkpoint_storage import open_checkpoints, state
from clipvip_jax.utils.cli import exit_on_error
from clipvip_jax.utils.log import configure_logging
scratch, url, server = pathlib.Path(sys.argv[1]), *sys.argv[2:]

class Bucket:
  def __truediv__(self, name):
    return f"{url}/{name}"

def main():
  checkpoints = open_checkpoints(Bucket(), scratch)
  checkpoints.save(state(1), {"next_record": 10})
  checkpoints.wait()
  faults = b'{"rate": 1, "kinds": ["silent"]}'
  urllib.request.urlopen(urllib.request.Request(f"{server}/-/faults", method="POST", data=faults))
  print("silent", flush=True)
  checkpoints.save(state(2), {"next_record": 20})
  checkpoints.wait()

configure_logging()
exit_on_error(main)
"""


@pytest.mark.slow
def test_a_store_that_stops_answering_in_a_save_ends_it_in_one_line(bucket, tmp_path):
  """With 1 second of silence in place of 20, and fewer repetitions."""
  environment = {
    **os.environ,
    "TENSORSTORE_CURL_LOW_SPEED_TIME_SECONDS": "1",
    "PYTHONPATH": os.pathsep.join([*sys.path, os.path.dirname(__file__)]),  # noqa: PTH120
  }
  command = [sys.executable, "-c", SILENCED, str(tmp_path / "a"), bucket.url, bucket.store.url]
  start = time.monotonic()
  done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
  assert done.returncode == 2 and "silent" in done.stdout, done.stderr
  assert time.monotonic() - start < 200
  last = done.stderr.splitlines()[-1]
  assert (
    f"the bucket {bucket.name} did not answer in time; check the network" in last and "Traceback" not in done.stderr
  )
  bucket.set_faults()
  assert resume(bucket, tmp_path / "other") == 1
