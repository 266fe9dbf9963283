"""Paths of object stores and what errors of a store say, against emulators."""

import pathlib
import subprocess
import sys

import pytest

from clipvip_jax.utils import storage, storage_clients, transfers
from clipvip_jax.utils.errors import UserError


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


def test_a_missing_bucket_is_named_and_a_missing_object_is_not_found(bucket, tmp_path):
  url = f"{bucket.store.scheme}://no-such-bucket/run"
  message = r"^--workdir=.*: the bucket no-such-bucket does not exist; check its name, or create it$"
  with pytest.raises(UserError, match=message):
    storage.check_bucket(url, "--workdir")
  with pytest.raises(UserError, match=r"the bucket no-such-bucket does not exist"):
    transfers.download(storage.absolute(url), tmp_path / "file")
  storage.check_bucket(bucket / "run")
  storage.check_bucket(tmp_path / "absent")
  with pytest.raises(FileNotFoundError):
    transfers.download(storage.absolute(bucket / "absent"), tmp_path / "file")


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


def test_import_needs_no_package():
  done = subprocess.run(
    [sys.executable, "-S", "-c", "import clipvip_jax.utils.transfers"], capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr


def test_requests_have_a_time_limit(gs_bucket):
  assert storage.file_system(gs_bucket.url).requests_timeout.sock_read == storage_clients.SILENCE_SECONDS
