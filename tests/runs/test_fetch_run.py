"""Runs in buckets are read as those on disk."""

import jax
import numpy as np
import published_run
import pytest

from clipvip_jax.runs import checkpoint, fetch_run
from clipvip_jax.utils.errors import UserError


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """A finished run on disk; its checkpoints are of steps 3 and 6, which is the best."""
  return published_run.write_run(tmp_path_factory.mktemp("run") / "run")


def test_only_the_needed_checkpoint_is_downloaded_completely(run, bucket):
  address = bucket.upload(run, "runs/a")
  for step, expected in ((None, 6), (3, 3)):
    local = fetch_run.fetch_run(address, step)
    params, found = checkpoint.read_params(local / "checkpoints", step)
    assert found == expected
    jax.tree.map(np.testing.assert_array_equal, params, checkpoint.read_params(run / "checkpoints", expected)[0])
    assert (local / "results.json").read_bytes() == (run / "results.json").read_bytes()
    states = {path.parts[-len(path.relative_to(local).parts) + 1] for path in local.rglob("state/**/d/*")}
    assert states == ({"6"} if expected == 6 else {"3", "6"})


def test_a_run_that_continues_is_read_anew(run, bucket):
  address = bucket.upload(run, "runs/a")
  bucket.write("runs/a/results.json", b"{}")
  assert (fetch_run.fetch_files(address) / "results.json").read_bytes() == b"{}"
  bucket.write("runs/a/results.json", b"[]")
  assert (fetch_run.fetch_files(address) / "results.json").read_bytes() == b"[]"


def test_a_corrupt_checkpoint_is_refused_by_its_address(run, bucket):
  address = bucket.upload(run, "runs/a")
  name = max((name for name in bucket.sizes() if "/6/state/" in name), key=bucket.sizes().get)
  content = bytearray(bucket.read(name))
  content[len(content) // 2] ^= 1
  bucket.write(name, bytes(content))
  with pytest.raises(UserError, match=rf"step 6 in {address}/checkpoints is corrupt \(state/.*choose another step"):
    fetch_run.fetch_run(address)
  assert fetch_run.fetch_run(address, 3)


@pytest.mark.parametrize(("step", "message"), [(7, "of step 7; choose one of: 3, 6"), (None, "yet; wait")])
def test_a_checkpoint_that_does_not_exist_is_refused_by_its_address(run, bucket, step, message):
  address = bucket.upload(run, "runs/a") if step else bucket / "none"
  with pytest.raises(UserError, match=rf"^{address}/checkpoints has no checkpoint {message}"):
    fetch_run.fetch_run(address, step)


def test_a_local_run_is_read_where_it_is(run):
  assert fetch_run.fetch_run(run) == fetch_run.fetch_files(run) == run
  assert fetch_run.has_checkpoints(run) and not fetch_run.has_checkpoints(run / "checkpoints")


def test_finds_checkpoints(run, bucket):
  assert fetch_run.has_checkpoints(bucket.upload(run, "runs/a")) and not fetch_run.has_checkpoints(bucket / "runs")
