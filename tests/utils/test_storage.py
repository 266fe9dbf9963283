"""Paths and transfers of object stores, against emulators."""

import pathlib
import subprocess
import sys

import pytest

from clipvip_jax.utils import storage, storage_clients
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.storage_errors import TransferError


@pytest.fixture
def no_wait(quick_retries, monkeypatch):
  monkeypatch.setattr(storage, "RETRY_DELAYS", (0.001,) * 8)


def files(folder):
  return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
  "path", ["build/run", "/shared/a:b//c", "~/run", "gs:/bucket", pathlib.Path("gs://bucket"), ""]
)
@pytest.mark.parametrize("remote", [True, False])
def test_local_paths_pass(path, remote):
  storage.check_path(path, "--workdir", remote=remote)
  assert not storage.is_remote(path)


@pytest.mark.parametrize("path", ["gs://bucket/run", "s3://buc-ket", "gs://a.b/c d/e"])
def test_buckets_pass_where_they_are_possible(path):
  storage.check_path(path, "--workdir")
  assert storage.is_remote(path) and str(storage.absolute(path)) == path
  with pytest.raises(UserError, match=rf"^--workdir={path} is not a local path; mount the bucket"):
    storage.check_path(path, "--workdir", remote=False)


@pytest.mark.parametrize("path", ["https://host/x", "hf://owner/name", "az://bucket/x", "GS://bucket/x", "://x"])
def test_other_schemes_are_refused(path):
  with pytest.raises(UserError, match=rf"^--workdir={path} is neither a local path nor gs://BUCKET/NAME or s3://"):
    storage.check_path(path, "--workdir")


@pytest.mark.parametrize(
  ("path", "message"),
  [
    ("gs://", "does not name a bucket; pass gs://BUCKET/NAME"),
    ("s3://UPPER/x", "does not name a bucket; pass s3://BUCKET/NAME"),
    ("gs://bucket/a/../b", "has . or .., #, "),
    ("s3://bucket/run#1", "has . or .., #, "),
    ("caf\udce9", "is not valid UTF-8 in this locale; set PYTHONUTF8=1"),
    ("~nobody-here/run", "names the home of a user that does not exist"),
    ("gs://bucket/a\nb", "has . or .., #, "),
    ("s3://bucket/a\\b", "has . or .., #, "),
  ],
)
def test_paths_that_cannot_work_are_refused_in_one_line(path, message):
  with pytest.raises(UserError) as refused:
    storage.check_path(path, "--workdir")
  assert message in str(refused.value) and "\n" not in str(refused.value)
  assert str(refused.value).startswith("--workdir=")


def test_a_missing_package_is_named_with_its_install_command(monkeypatch):
  monkeypatch.setattr(storage.importlib.util, "find_spec", lambda name: None)
  with pytest.raises(UserError, match=r"needs gcsfs, which is not installed: pip install 'clipvip_jax\[gcs\]'"):
    storage.check_path("gs://bucket/run", "--workdir")
  storage.check_path("gs://bucket/run", "--workdir", packages=False)


def test_local_paths_become_absolute(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv("HOME", "/home/me")
  assert [str(storage.absolute(path)) for path in ("a/b", "~/c", "/d")] == [f"{tmp_path}/a/b", "/home/me/c", "/d"]


def test_folders_make_the_round_trip(bucket, tmp_path):
  source, back = tmp_path / "source", tmp_path / "back"
  (source / "sub folder/deep").mkdir(parents=True)
  contents = {"empty": b"", "sub folder/\xe9.json": b"{}", "sub folder/deep/large": bytes(range(256)) * 25_000}
  for name, content in contents.items():
    (source / name).write_bytes(content)
  target = storage.absolute(bucket / "a/run")
  bucket.write("a/run2/other", b"of another folder")
  storage.upload_folder(source, target)
  assert storage.list_names(target) == sorted(contents)
  storage.download_folder(target, back)
  assert files(back) == contents
  storage.download_folder(target, tmp_path / "part", lambda name: name == "empty")
  assert files(tmp_path / "part") == {"empty": b""}
  assert storage.list_names(target / "absent") == []


def test_an_object_cannot_leave_its_folder(s3_bucket, tmp_path):
  s3_bucket.write("run/../../evil", b"x")
  with pytest.raises(UserError, match=r"holds an object with the name '\.\./\.\./evil', which no file has; remove it"):
    storage.download_folder(storage.absolute(s3_bucket / "run"), tmp_path / "run")


@pytest.mark.usefixtures("no_wait")
def test_faults_are_retried_with_a_warning_and_no_byte_is_wrong(bucket, tmp_path, caplog):
  local, target = tmp_path / "file", storage.absolute(bucket / "file")
  local.write_bytes(bytes(range(256)) * 40_000)
  for seed in range(3):
    with bucket.faults(seed=seed, rate=0.4, slow_seconds=0.01):
      storage.upload(local, target)
      storage.download(target, tmp_path / "back")
    assert bucket.read("file") == local.read_bytes() == (tmp_path / "back").read_bytes()
  assert sorted(path.name for path in tmp_path.iterdir()) == ["back", "file"]


@pytest.mark.usefixtures("no_wait")
def test_a_store_that_stays_busy_is_announced_and_reported(bucket, tmp_path, caplog):
  (tmp_path / "file").write_bytes(b"x")
  with bucket.faults(rate=1.0, kinds=("500",)), pytest.raises(UserError) as refused:
    storage.upload(tmp_path / "file", storage.absolute(bucket / "file"))
  assert str(refused.value) == (
    f"{bucket.url}/file: the bucket {bucket.name} refuses requests for the moment; try again later"
  )
  assert [record.getMessage() for record in caplog.records if record.name == "clipvip_jax"] == [
    f"{bucket.url}/file: the bucket {bucket.name} refuses requests for the moment; retrying"
  ] * len(storage.RETRY_DELAYS)


def test_a_download_that_differs_leaves_the_old_file(bucket, tmp_path, monkeypatch):
  monkeypatch.setattr(storage, "RETRY_DELAYS", ())
  bucket.write("file", b"content")
  system = storage.file_system(bucket / "file")
  monkeypatch.setattr(system, "get_file", lambda name, local: pathlib.Path(local).write_bytes(b"CONTENT"))
  (tmp_path / "file").write_bytes(b"old")
  with pytest.raises(UserError, match=r"returned other bytes than were written; check the network"):
    storage.download(storage.absolute(bucket / "file"), tmp_path / "file")
  assert files(tmp_path) == {"file": b"old"}


def test_a_missing_bucket_is_named_and_a_missing_object_is_not_found(bucket, tmp_path):
  url = f"{bucket.store.scheme}://no-such-bucket/run"
  message = r"^--workdir=.*: the bucket no-such-bucket does not exist; check its name, or create it$"
  with pytest.raises(UserError, match=message):
    storage.check_bucket(url, "--workdir")
  with pytest.raises(UserError, match=r"the bucket no-such-bucket does not exist"):
    storage.download(storage.absolute(url), tmp_path / "file")
  storage.check_bucket(bucket / "run")
  storage.check_bucket(tmp_path / "absent")
  with pytest.raises(FileNotFoundError):
    storage.download(storage.absolute(bucket / "absent"), tmp_path / "file")


def test_errors_of_local_files_pass(tmp_path, bucket):
  with pytest.raises(FileNotFoundError), storage.explain_errors(tmp_path):
    (tmp_path / "absent").read_bytes()
  with pytest.raises(ZeroDivisionError), storage.explain_errors(bucket / "x"):
    raise ZeroDivisionError


def test_listings_are_those_of_now(bucket):
  folder = storage.absolute(bucket / "run")
  bucket.write("run/a", b"1")
  assert [path.name for path in folder.iterdir()] == ["a"]
  bucket.write("run/b", b"1")  # as by another process
  assert sorted(path.name for path in folder.iterdir()) == ["a", "b"] and (folder / "b").exists()


@pytest.mark.parametrize(("scheme", "package"), [("gs", "gcs"), ("s3", "s3")])
def test_an_action_that_makes_the_first_client_finds_it_configured(scheme, package, monkeypatch):
  import fsspec.config

  monkeypatch.setattr(fsspec.config, "conf", {})
  storage_clients.configure.cache_clear()
  assert storage.retry(f"{scheme}://bucket/x", lambda: fsspec.config.conf[package]["use_listings_cache"]) is False


def test_import_needs_no_package():
  done = subprocess.run(
    [sys.executable, "-S", "-c", "import clipvip_jax.utils.storage"], capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr


def test_requests_have_a_time_limit(gs_bucket):
  assert storage.file_system(gs_bucket.url).requests_timeout.sock_read == storage_clients.SILENCE_SECONDS


@pytest.mark.usefixtures("quick_retries")
def test_a_transfer_that_fails_after_minutes_is_repeated(monkeypatch):
  clock, attempts = [0.0], []

  def transfer():
    attempts.append(clock[0])
    clock[0] += 100
    if len(attempts) < 2:
      raise TransferError("cut off")
    return "complete"

  monkeypatch.setattr(storage.time, "monotonic", lambda: clock[0])
  assert storage.retry("gs://b/large", transfer) == "complete"
  assert attempts == [0, 100]
