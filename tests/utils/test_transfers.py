"""Transfers from and to object stores, against emulators that fail."""

import pathlib

import pytest

from clipvip_jax.utils import storage, storage_clients, transfers
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.storage_errors import TransferError


@pytest.fixture
def no_wait(quick_retries, monkeypatch):
  monkeypatch.setattr(transfers, "RETRY_DELAYS", (0.001,) * 8)


def files(folder):
  return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_folders_make_the_round_trip(bucket, tmp_path):
  source, back = tmp_path / "source", tmp_path / "back"
  (source / "sub folder/deep").mkdir(parents=True)
  contents = {"empty": b"", "sub folder/\xe9.json": b"{}", "sub folder/deep/large": bytes(range(256)) * 25_000}
  for name, content in contents.items():
    (source / name).write_bytes(content)
  target = storage.absolute(bucket / "a/run")
  bucket.write("a/run2/other", b"of another folder")
  transfers.upload_folder(source, target)
  assert transfers.list_names(target) == sorted(contents)
  transfers.download_folder(target, back)
  assert files(back) == contents
  transfers.download_folder(target, tmp_path / "part", lambda name: name == "empty")
  assert files(tmp_path / "part") == {"empty": b""}
  assert transfers.list_names(target / "absent") == []
  for folder in (source, target):
    assert transfers.exists(folder / "sub folder/deep/large") and not transfers.exists(folder / "absent")


def test_an_object_cannot_leave_its_folder(s3_bucket, tmp_path):
  s3_bucket.write("run/../../evil", b"x")
  with pytest.raises(UserError, match=r"holds an object with the name '\.\./\.\./evil', which no file has; remove it"):
    transfers.download_folder(storage.absolute(s3_bucket / "run"), tmp_path / "run")


@pytest.mark.usefixtures("no_wait")
def test_faults_are_retried_with_a_warning_and_no_byte_is_wrong(bucket, tmp_path, caplog):
  local, target = tmp_path / "file", storage.absolute(bucket / "file")
  local.write_bytes(bytes(range(256)) * 40_000)
  for seed in range(3):
    with bucket.faults(seed=seed, rate=0.4, slow_seconds=0.01):
      transfers.upload(local, target)
      transfers.download(target, tmp_path / "back")
    assert bucket.read("file") == local.read_bytes() == (tmp_path / "back").read_bytes()
  assert sorted(path.name for path in tmp_path.iterdir()) == ["back", "file"]


@pytest.mark.usefixtures("no_wait")
def test_a_store_that_stays_busy_is_announced_and_reported(bucket, tmp_path, caplog):
  (tmp_path / "file").write_bytes(b"x")
  with bucket.faults(rate=1.0, kinds=("500",)), pytest.raises(UserError) as refused:
    transfers.upload(tmp_path / "file", storage.absolute(bucket / "file"))
  assert str(refused.value) == (
    f"{bucket.url}/file: the bucket {bucket.name} refuses requests for the moment; try again later"
  )
  assert [record.getMessage() for record in caplog.records if record.name == "clipvip_jax"] == [
    f"{bucket.url}/file: the bucket {bucket.name} refuses requests for the moment; retrying"
  ] * len(transfers.RETRY_DELAYS)


def test_a_download_that_differs_leaves_the_old_file(bucket, tmp_path, monkeypatch):
  monkeypatch.setattr(transfers, "RETRY_DELAYS", ())
  bucket.write("file", b"content")
  system = storage.file_system(bucket / "file")
  monkeypatch.setattr(system, "get_file", lambda name, local: pathlib.Path(local).write_bytes(b"CONTENT"))
  (tmp_path / "file").write_bytes(b"old")
  with pytest.raises(UserError, match=r"returned other bytes than were written; check the network"):
    transfers.download(storage.absolute(bucket / "file"), tmp_path / "file")
  assert files(tmp_path) == {"file": b"old"}


@pytest.mark.parametrize(("scheme", "package"), [("gs", "gcs"), ("s3", "s3")])
def test_an_action_that_makes_the_first_client_finds_it_configured(scheme, package, monkeypatch):
  import fsspec.config

  monkeypatch.setattr(fsspec.config, "conf", {})
  storage_clients.configure.cache_clear()
  assert transfers.retry(f"{scheme}://bucket/x", lambda: fsspec.config.conf[package]["use_listings_cache"]) is False


@pytest.mark.usefixtures("quick_retries")
def test_a_transfer_that_fails_after_minutes_is_repeated(monkeypatch):
  clock, attempts = [0.0], []

  def transfer():
    attempts.append(clock[0])
    clock[0] += 100
    if len(attempts) < 2:
      raise TransferError("cut off")
    return "complete"

  monkeypatch.setattr(transfers.time, "monotonic", lambda: clock[0])
  assert transfers.retry("gs://b/large", transfer) == "complete"
  assert attempts == [0, 100]
