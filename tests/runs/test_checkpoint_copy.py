"""Copies of checkpoints between buckets and folders: what is committed, downloaded, replaced and refused."""

import json

import pytest
from etils import epath

from clipvip_jax.runs import checkpoint_copy
from clipvip_jax.utils import file_digests, transfers

FILES = {"commit_success.txt": b"yes", "data/metadata": b"{}", "state/d/1": b"arrays", "state/manifest": b"m"}


@pytest.fixture
def checkpoint(tmp_path):
  """A folder with the files of a checkpoint and their digests."""
  for name, content in FILES.items():
    path = tmp_path / "written" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
  file_digests.write_digests(tmp_path / "written")
  return tmp_path / "written"


def contents(folder):
  return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_published_checkpoint_is_complete_when_it_is_committed(bucket, checkpoint, monkeypatch):
  remote, seen, upload = epath.Path(bucket / "c/3"), [], transfers.upload

  def watch(local, target):
    seen.append((target.name, checkpoint_copy.committed_steps(remote.parent)))
    upload(local, target)

  monkeypatch.setattr(transfers, "upload", watch)
  bucket.write("c/3/state/d/0", b"of a killed upload")
  checkpoint_copy.publish(checkpoint, remote)
  assert seen[-1] == (file_digests.NAME, []) and not any(steps for _, steps in seen)
  assert checkpoint_copy.committed_steps(remote.parent) == [3]
  assert {name.removeprefix("c/3/") for name in bucket.sizes()} == {*FILES, file_digests.NAME}


def test_only_checkpoints_are_listed(bucket, checkpoint):
  bucket.upload(checkpoint, "c/12")
  for name in ("c/7/state/x", "c/07/digests.json", "c/x/digests.json", "c/5"):
    bucket.write(name, b"x")
  assert checkpoint_copy.list_steps(epath.Path(bucket / "c")) == {7: False, 12: True}
  assert checkpoint_copy.list_steps(epath.Path(bucket / "none")) == {}


def test_pulls_everything_but_states_and_fetches_what_is_missing_or_differs(bucket, checkpoint, tmp_path, monkeypatch):
  bucket.upload(checkpoint, "c/12")
  remote, local = epath.Path(bucket / "c"), tmp_path / "local"
  (local / "4").mkdir(parents=True)
  checkpoint_copy.pull(remote, local)
  small = {"commit_success.txt", "data/metadata", file_digests.NAME}
  assert contents(local) == {f"12/{name}" for name in small} and not (local / "4").exists()
  checkpoint_copy.fetch(remote / "12", local / "12")
  assert contents(local / "12") == {*FILES, file_digests.NAME}
  (local / "12/state/d/1").write_bytes(b"other")
  downloaded, download = [], transfers.download
  monkeypatch.setattr(
    transfers, "download", lambda source, path: (downloaded.append(source.name), download(source, path))
  )
  checkpoint_copy.fetch(remote / "12", local / "12")
  assert (local / "12/state/d/1").read_bytes() == b"arrays"
  assert sorted(downloaded) == ["1", "commit_success.txt", "digests.json"]


@pytest.mark.parametrize(
  ("name", "content", "message"),
  [
    ("state/d/1", b"Arrays", "state/d/1 does not match its digest"),
    ("digests.json", b"{", "digests.json is corrupt"),
    ("digests.json", json.dumps({"../../x": "0" * 32}).encode(), "digests.json is corrupt"),
    ("digests.json", json.dumps({"/x": "0" * 32}).encode(), "digests.json is corrupt"),
    ("digests.json", json.dumps({"no/such": "0" * 32}).encode(), "no/such is missing"),
  ],
)
def test_a_corrupt_checkpoint_is_not_fetched(bucket, checkpoint, tmp_path, name, content, message):
  bucket.upload(checkpoint, "c/12")
  bucket.write(f"c/12/{name}", content)
  with pytest.raises(ValueError, match=message):
    checkpoint_copy.fetch(epath.Path(bucket / "c/12"), tmp_path / "a/b/12")
  checkpoint_copy.pull(epath.Path(bucket / "c"), tmp_path / "a/b")
  assert not {path.name for path in (tmp_path / "a").glob("*")} - {"b"} and not (tmp_path / "x").exists()


def test_digests_are_of_what_the_bucket_holds(bucket, checkpoint, tmp_path):
  bucket.upload(checkpoint, "c/12")
  bucket.write("c/12/_CHECKPOINT_METADATA", b"times, which Orbax writes again")
  checkpoint_copy.write_digests(epath.Path(bucket / "c/12"), tmp_path / "scratch")
  assert bucket.read("c/12/digests.json") == (checkpoint / "digests.json").read_bytes()
  assert not list((tmp_path / "scratch").iterdir())


def test_moves_and_deletes(bucket, checkpoint):
  bucket.upload(checkpoint, "c/12")
  bucket.write("q/12/old", b"of an earlier move")
  checkpoint_copy.move(epath.Path(bucket / "c/12"), epath.Path(bucket / "q/12"))
  assert {name: bucket.read(f"q/12/{name}") for name in FILES} == FILES
  assert bucket.sizes().keys() == {f"q/12/{name}" for name in (*FILES, "digests.json")}
  for _ in range(2):
    checkpoint_copy.delete(epath.Path(bucket / "q/12"))
    assert not bucket.sizes()
