"""Folders of runs: workdirs on disk, and mirrors of workdirs in buckets."""

import os
import pathlib
import shutil
import time

import pytest

from clipvip_jax.runs import run_folder, workdir_mirror
from clipvip_jax.runs.run_folder import open_run_folder
from clipvip_jax.utils import storage, transfers
from clipvip_jax.utils.errors import Terminated, UserError


@pytest.fixture
def workdir(bucket):
  return storage.absolute(bucket / "runs/a")


def test_a_folder_on_disk_is_neither_created_nor_locked(tmp_path):
  with open_run_folder(tmp_path / "run") as folder:
    assert (folder.path, folder.address, folder.remote) == (tmp_path / "run", f"{tmp_path}/run", None)
    folder.request_upload()
    folder.upload()
    assert not (tmp_path / "run").exists()
    assert folder.read_holder() == "No such file or directory"
    (tmp_path / "run").mkdir()
    with folder.lock():
      folder.check_held()
      assert '"pid"' in folder.read_holder()


def test_a_finished_run_is_in_the_bucket_alone(bucket, workdir, tmp_path):
  bucket.write("runs/a/config.json", b"{}")
  with open_run_folder(workdir, f"{tmp_path}/scratch") as folder:
    assert (folder.address, str(folder.remote)) == (f"{bucket.url}/runs/a", f"{bucket.url}/runs/a")
    assert (folder.path / "config.json").read_bytes() == b"{}" and folder.path.is_relative_to(tmp_path / "scratch")
    assert folder.path.parent.stat().st_mode & 0o077 == 0
    with folder.lock():
      folder.check_held()
    assert folder.read_holder().startswith('["')
    (folder.path / "metrics.jsonl").write_text("1\n")
    folder.check_held()
    assert bucket.read("runs/a/metrics.jsonl") == b"1\n"  # before the checkpoint that refers to it
    (folder.path / "results.json").write_text("{}")
  assert bucket.sizes().keys() == {f"runs/a/{name}" for name in ("config.json", "metrics.jsonl", "results.json")}
  assert not folder.path.exists()


@pytest.mark.parametrize("error", [Terminated(15, "saved"), ZeroDivisionError(), UserError("a problem")])
def test_an_interrupted_run_uploads_its_files(bucket, workdir, tmp_path, error):
  with pytest.raises(type(error)), open_run_folder(workdir, str(tmp_path)) as folder:
    (folder.path / "metrics.jsonl").write_text("1\n")
    raise error
  assert bucket.sizes().keys() == {"runs/a/metrics.jsonl"} and folder.path.exists()
  (folder.path / "metrics.jsonl").write_text("of a folder that is out of date\n")
  with open_run_folder(workdir, str(tmp_path)) as folder:
    assert (folder.path / "metrics.jsonl").read_text() == "1\n"


def test_errors_name_the_bucket_in_place_of_its_mirror(workdir, tmp_path):
  def fail(text):
    with open_run_folder(workdir, str(tmp_path)) as folder:
      raise UserError(text.format(folder.path))

  with pytest.raises(UserError, match=rf"^--workdir={workdir}: {workdir}/config.json cannot be read$"):
    fail("--workdir={0}: {0}/config.json cannot be read")
  with pytest.raises(UserError, match=rf"^{tmp_path}/.* is not writable \(No space left on device\)"):
    fail("{0} is not writable (No space left on device)")


def test_a_second_run_is_refused_and_changes_nothing(bucket, workdir, tmp_path):
  with open_run_folder(workdir, str(tmp_path)) as folder:
    (folder.path / "metrics.jsonl").write_text("1\n")
    for scratch in (tmp_path, tmp_path / "other"):
      message = rf"^--workdir={workdir} is in use by process {os.getpid()} on "
      with pytest.raises(UserError, match=message), open_run_folder(workdir, str(scratch)):
        pass
    assert (folder.path / "metrics.jsonl").exists()
    folder.check_held()
  assert bucket.sizes().keys() == {"runs/a/metrics.jsonl"}


def test_a_run_that_lost_its_lock_uploads_nothing_more(bucket, workdir, tmp_path):
  with pytest.raises(UserError, match="this run lost its lock"), open_run_folder(workdir, str(tmp_path)) as folder:
    bucket.write("runs/a/lock", b'{"host": "other"}')
    (folder.path / "metrics.jsonl").write_text("1\n")
    folder.check_held()
  assert bucket.sizes().keys() == {"runs/a/lock"}


def test_a_missing_bucket_is_refused_before_anything_is_written(bucket, tmp_path):
  url = storage.absolute(f"{bucket.store.scheme}://no-such-bucket/run")
  message = rf"^--workdir={url}: the bucket no-such-bucket does not exist; check its name, or create it$"
  with pytest.raises(UserError, match=message), open_run_folder(url, str(tmp_path)):
    pass
  assert not list(tmp_path.iterdir())


def test_a_scratch_folder_must_be_usable(gs_bucket, tmp_path, monkeypatch):
  workdir = storage.absolute(gs_bucket / "run")
  (tmp_path / "file").touch()
  message = r"cannot be created \(.*\); set host\.scratch_dir"
  with pytest.raises(UserError, match=message), open_run_folder(workdir, f"{tmp_path}/file"):
    pass
  for name in ("a[1]b", "a\\b"):
    message = "^host.scratch_dir=.* cannot be saved; choose"
    with pytest.raises(UserError, match=message), open_run_folder(workdir, f"{tmp_path}/{name}"):
      pass
    assert not (tmp_path / name).exists()
  monkeypatch.setattr(run_folder.os, "getuid", lambda: 12345)
  message = r"clipvip_jax_12345 belongs to another user; set host\.scratch_dir"
  with pytest.raises(UserError, match=message), open_run_folder(workdir, str(tmp_path)):
    pass


def test_faults_at_the_end_do_not_hide_an_error(bucket, workdir, tmp_path, monkeypatch, caplog):
  monkeypatch.setattr(transfers, "RETRY_DELAYS", ())
  with pytest.raises(ZeroDivisionError), open_run_folder(workdir, str(tmp_path)) as folder:
    (folder.path / "metrics.jsonl").write_text("1\n")
    bucket.set_faults(rate=1.0, kinds=("403",))
    raise ZeroDivisionError
  assert "the last files of this run remain in" in caplog.text
  assert "the lock of this run remains and expires in 60 seconds" in caplog.text
  assert pathlib.Path(folder.path, "metrics.jsonl").exists()


def test_an_upload_in_the_background_does_not_see_the_deletion_of_the_mirror(bucket, workdir, tmp_path, monkeypatch):
  rmtree, opened = shutil.rmtree, []

  def delete_slowly(path, **options):
    if path == opened[0].path:
      (path / "results.json").unlink()
      opened[0].request_upload()
      time.sleep(0.3)
    rmtree(path, **options)

  monkeypatch.setattr(workdir_mirror, "UPLOAD_SECONDS", 0)
  monkeypatch.setattr(run_folder.shutil, "rmtree", delete_slowly)
  with open_run_folder(workdir, str(tmp_path)) as folder:
    opened.append(folder)
    (folder.path / "results.json").write_bytes(b"{}")
  assert not folder.path.exists()
  assert bucket.read("runs/a/results.json") == b"{}"
