"""Local copies of objects: reading them, uploading what was written, and addresses in messages."""

import pytest

from clipvip_jax.utils import bucket_copies, transfers
from clipvip_jax.utils.errors import UserError


def test_files_are_downloaded_at_every_call_and_missing_ones_are_skipped(bucket):
  for content in (b"one", b"two"):
    bucket.write("a/b.txt", content)
    assert bucket_copies.fetch_file(bucket / "a/b.txt").read_bytes() == content
  folder = bucket_copies.fetch_files(bucket / "a", ["b.txt", "c.txt"])
  assert (folder / "b.txt").read_bytes() == b"two" and not (folder / "c.txt").exists()


def test_a_deleted_object_has_no_copy(bucket):
  bucket.write("a", b"one")
  path = bucket_copies.fetch_file(bucket / "a")
  assert path.exists() and not bucket_copies.fetch_file(bucket / "b").exists()


def test_local_paths_are_unchanged(tmp_path):
  assert bucket_copies.fetch_file(tmp_path / "a") == bucket_copies.local_copy(str(tmp_path / "a")) == tmp_path / "a"
  with (
    bucket_copies.uploaded_file(tmp_path / "a", "--out") as file,
    bucket_copies.uploaded_folder(tmp_path, "--workdir", ["b"], "c") as folder,
  ):
    assert (file, folder) == (tmp_path / "a", tmp_path)


def test_errors_name_the_object_and_not_its_copy(bucket):
  path = bucket_copies.local_copy(bucket / "a/b.txt")
  with pytest.raises(UserError, match=rf"^{bucket.url}/a/b.txt is wrong$"), bucket_copies.errors_by_address():
    raise UserError(f"{path} is wrong")
  assert bucket_copies.to_addresses("nothing") == "nothing"


def test_a_file_is_uploaded_after_its_block_only_if_it_succeeds(bucket):
  with pytest.raises(ZeroDivisionError), bucket_copies.uploaded_file(bucket / "a/page.html", "--html") as path:
    path.write_text(str(1 / 0))
  assert not bucket.sizes()
  with bucket_copies.uploaded_file(bucket / "a/page.html", "--html") as path:
    path.write_text("page")
    assert not bucket.sizes()
  assert bucket.read("a/page.html") == b"page"


def test_a_folder_is_uploaded_with_one_file_last(bucket, monkeypatch):
  uploaded, upload = [], transfers.upload
  monkeypatch.setattr(transfers, "upload", lambda local, target: (uploaded.append(target.name), upload(local, target)))
  bucket.write("w/old.json", b"old")
  bucket.write("w/other.json", b"other")
  with bucket_copies.uploaded_folder(bucket / "w", "--workdir", ["old.json"], "first.json") as folder:
    assert [path.name for path in folder.iterdir()] == ["old.json"]
    (folder / "first.json").write_bytes(b"1")
    (folder / "sub").mkdir()
    (folder / "sub/x.json").write_bytes(b"2")
  for name, content in {"first.json": b"1", "sub/x.json": b"2", "old.json": b"old", "other.json": b"other"}.items():
    assert bucket.read(f"w/{name}") == content
  assert sorted(uploaded) == ["first.json", "old.json", "x.json"] and uploaded[-1] == "first.json"


def test_a_bucket_that_does_not_exist_is_refused_before_the_block(bucket):
  address = f"{bucket.url}-none/w"
  for block in (
    bucket_copies.uploaded_file(address, "--html"),
    bucket_copies.uploaded_folder(address, "--workdir", [], "x"),
  ):
    with pytest.raises(UserError, match=r"-none/w: the bucket .*-none does not exist"), block:
      raise AssertionError("the block ran")
