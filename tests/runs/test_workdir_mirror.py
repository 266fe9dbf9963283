"""Mirrors of workdirs in buckets."""

import queue
import shutil
import threading

import pytest
from waiting import wait_until

from clipvip_jax.runs import workdir_mirror
from clipvip_jax.runs.workdir_mirror import WorkdirMirror
from clipvip_jax.utils import storage, transfers
from clipvip_jax.utils.errors import UserError


@pytest.fixture
def folder(tmp_path):
  path = tmp_path / "mirror"
  path.mkdir()
  return path


@pytest.fixture
def mirror(bucket, folder):
  opened = WorkdirMirror(folder, storage.absolute(bucket / "run"))
  yield opened
  opened.close()


def test_small_files_are_downloaded_and_others_deleted(bucket, folder, mirror):
  for name in (
    "config.json",
    "trackers/a.json",
    "events.out.tfevents.1",
    "lock",
    "checkpoints/1/state/x",
    "compiled/y",
  ):
    bucket.write(f"run/{name}", name.encode())
  (folder / "stale.json").write_text("of an earlier run")
  (folder / "stack_traces_process_0.txt").write_text("of a process that was aborted")
  (folder / "compiled").mkdir()
  (folder / "compiled/z").write_text("program")
  mirror.pull()
  names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
  downloaded = {"config.json", "trackers/a.json", "events.out.tfevents.1"}
  assert names == downloaded | {"compiled/z", "stack_traces_process_0.txt"}
  assert all((folder / name).read_text() == name for name in downloaded)
  mirror.upload()
  puts = [line for line, _ in bucket.requests() if line.startswith(("PUT", "POST"))]
  assert len(puts) == 1 and bucket.read("run/stack_traces_process_0.txt")  # what was downloaded is not uploaded


def test_changed_files_are_uploaded_as_a_whole_and_deleted_ones_kept(bucket, folder, mirror):
  (folder / "trackers").mkdir()
  (folder / "trackers/run.json").write_text("{}")
  (folder / "metrics.jsonl").write_text('{"step": 1}\n{"st')  # a line is being written
  (folder / ".results.json.1.ab.tmp").write_text("half")
  (folder / "lock").write_text("of the mirror")
  (folder / "checkpoints/1").mkdir(parents=True)
  (folder / "checkpoints/1/digests.json").write_text("{}")
  mirror.upload()
  assert bucket.sizes().keys() == {"run/trackers/run.json", "run/metrics.jsonl"}
  assert bucket.read("run/metrics.jsonl") == b'{"step": 1}\n'
  with (folder / "metrics.jsonl").open("a") as file:
    file.write('ep": 2}\n')
  (folder / "trackers/run.json").unlink()
  mirror.upload()
  assert bucket.sizes().keys() == {"run/trackers/run.json", "run/metrics.jsonl"}
  assert bucket.read("run/metrics.jsonl") == (folder / "metrics.jsonl").read_bytes()


def test_results_are_uploaded_last(bucket, folder, mirror):
  for name in ("results.json", "report.html", "zz.json"):
    (folder / name).write_text(name)
  mirror.upload()
  names = ("results.json", "report.html", "zz.json")
  writes = [line for line, _ in bucket.requests() if line.startswith(("PUT", "POST", "GET"))]
  last = [next((name for name in names if name in line), "") for line in writes]
  assert [name for name in last if name][-1] == "results.json"


def test_requested_uploads_happen_in_the_background_and_survive_faults(bucket, folder, mirror, monkeypatch, caplog):
  monkeypatch.setattr(workdir_mirror, "UPLOAD_SECONDS", 0.05)
  monkeypatch.setattr(transfers, "RETRY_DELAYS", ())
  (folder / "metrics.jsonl").write_text("1\n")
  with bucket.faults(rate=1.0, kinds=("403",)):
    mirror.request_upload()
    wait_until(lambda: "the files of this run are uploaded later" in caplog.text)
  mirror.request_upload()
  wait_until(lambda: "run/metrics.jsonl" in bucket.sizes())


def test_a_request_does_not_wait_for_the_upload(folder, mirror, monkeypatch):
  requested, uploaded_after_request = threading.Event(), queue.SimpleQueue()
  monkeypatch.setattr(mirror, "upload", lambda: uploaded_after_request.put(requested.wait(20)))
  mirror.request_upload()
  requested.set()
  assert uploaded_after_request.get(timeout=30)


def test_a_bucket_that_is_gone_is_reported(folder, bucket):
  opened = WorkdirMirror(folder, storage.absolute(f"{bucket.store.scheme}://no-such-bucket/run"))
  (folder / "a").write_text("x")
  with pytest.raises(UserError, match="the bucket no-such-bucket does not exist"):
    opened.upload()
  opened.close()
  assert (folder / "a").exists()


def test_the_bucket_keeps_its_files_when_the_folder_is_deleted(bucket, folder, mirror):
  (folder / "config.json").write_text("{}")
  mirror.upload()
  shutil.rmtree(folder)
  with pytest.raises(UserError, match=rf"{folder} was deleted during this run; set host.scratch_dir"):
    mirror.upload()
  assert bucket.read("run/config.json") == b"{}"
