"""Groups of members of tar files."""

import corpora
import pytest
from etils import epath

from clipvip_jax.data.engine import tar_files
from clipvip_jax.utils.errors import UserError


def groups(path, suffixes=(".txt", ".mp4")):
  """Returns [(key, {member: content})]."""
  return [
    (key, {name: file.seek(span.offset) and file.read(span.size) for name, span in group.items()})
    for file, key, group in tar_files.iterate_groups(epath.Path(path), suffixes)
    if group
  ]


def test_members_are_grouped_by_key_and_read_where_they_are(tmp_path):
  members = {"x.y/a.mp4": b"video", "x.y/a.en.txt": "speech", "x.y/._a.mp4": b"fork", "x.y/a.jpg": b"other"}
  path = corpora.write_tar(tmp_path / "0.tar", {**members, "b.TXT": "text", "b.mp4": b"", "__MACOSX/b.mp4": b"fork"})
  assert groups(path) == [("x.y/a", {"x.y/a.mp4": b"video", "x.y/a.en.txt": b"speech"}), ("b", {"b.TXT": b"text"})]


@pytest.mark.parametrize(
  ("content", "words"),
  [
    (b"\xff", "here: the text is not UTF-8"),
    (b"[1]", "here: expected"),
    (b'{"a": 1', "here: invalid JSON"),
    (b"[" * 100_000, "here: invalid JSON"),
  ],
)
def test_rejects_corrupt_objects(tmp_path, content, words):
  path = corpora.write_tar(tmp_path / "0.tar", {"a.txt": content})
  for file, _, group in tar_files.iterate_groups(epath.Path(path), (".txt",)):
    for span in group.values():
      with pytest.raises(UserError, match=words):
        tar_files.read_object(file, span, "here")


def test_a_missing_file_is_an_error_of_one_line(tmp_path):
  with pytest.raises(UserError, match=r"gone\.tar: cannot be read \(No such file or directory\)"):
    groups(tmp_path / "gone.tar")


def test_a_missing_bucket_is_named(bucket):
  with pytest.raises(UserError, match="the bucket no-such-bucket ") as refused:
    groups(f"{bucket.store.scheme}://no-such-bucket/0.tar")
  assert "0.tar" in str(refused.value) and "\n" not in str(refused.value)
