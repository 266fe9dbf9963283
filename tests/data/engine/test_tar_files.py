"""Groups of members of tar files."""

import bz2
import gzip
import lzma
import tarfile
import unicodedata

import corpora
import pytest
from etils import epath

from clipvip_jax.data.engine import tar_files
from clipvip_jax.utils.errors import UserError


def groups(path, suffixes=(".txt", ".mp4")):
  """Returns [(key, {member: content})]."""
  return [
    (key, {name: file.seek(span.offset) and file.read(span.size) for name, span in group.items()})
    for file, key, group, _ in tar_files.iterate_groups(epath.Path(path), suffixes)
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
    (gzip.compress(b"{}", mtime=0), "here: the file is compressed .gzip."),
  ],
)
def test_rejects_corrupt_objects(tmp_path, content, words):
  path = corpora.write_tar(tmp_path / "0.tar", {"a.txt": content})
  for file, _, group, _ in tar_files.iterate_groups(epath.Path(path), (".txt",)):
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


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress, bz2.compress, lambda data: b"\x28\xb5\x2f\xfd" + data])
def test_compressed_tars_are_named(tmp_path, pack):
  path = corpora.write_tar(tmp_path / "0.tar", {"a.txt": "t"})
  path.write_bytes(pack(path.read_bytes()))
  with pytest.raises(
    UserError, match=r"0\.tar: the file is compressed \((gzip|xz|bzip2|zstd)\); decompress it: \w+ -dc FILE > NEW"
  ):
    groups(path)


def test_hard_links_have_the_content_of_the_earlier_file_that_they_name(tmp_path):
  members = {"./z.mp4": b"video", "./z.txt": "t", "./a.mp4": corpora.tar_link("./z.mp4"), "./a.txt": b"u"}
  path = corpora.write_tar(tmp_path / "0.tar", {**members, "./b.txt": corpora.tar_link("z.txt"), "./c.txt": b"v"})
  contents = [{"./z.mp4": b"video", "./z.txt": b"t"}, {"./a.mp4": b"video", "./a.txt": b"u"}, {"./b.txt": b"t"}]
  assert [group for _, group in groups(path)] == [*contents, {"./c.txt": b"v"}]


@pytest.mark.parametrize(
  ("name", "member", "words"),
  [
    ("a.mp4", corpora.tar_link("/x/z.mp4", tarfile.SYMTYPE), r"'a.mp4' (a symbolic link to '/x/z.mp4'; store the file"),
    ("a.mp4", corpora.tar_link("gone.mp4"), "'a.mp4' (a hard link to 'gone.mp4', which is not an earlier file"),
    ("a.mp4", corpora.tar_link("z.mp4"), "'a.mp4' (a hard link to 'z.mp4', which is not an earlier file"),
    ("a.mp4", corpora.tar_link("a.mp4"), "'a.mp4' (a hard link to 'a.mp4', which is not an earlier file"),
    ("a.mp4", b"", "'a.mp4' (empty)"),
    ("a.mxf", b"video", "what the tar file has: 'a.mxf'"),
    ("a.'mxf", b"video", "what the tar file has: \"a.'mxf\""),
  ],
)  # fmt: skip
def test_unused_members_are_named(tmp_path, name, member, words):
  path = corpora.write_tar(tmp_path / "0.tar", {name: member, "a.txt": "t", "z.mp4": b"video"})
  reasons = {
    group.key: group.describe_unused() for group in tar_files.iterate_groups(epath.Path(path), (".mp4", ".txt"))
  }
  assert words in reasons["a"] and reasons["z"] == ""


def test_only_some_of_many_unused_members_are_named(tmp_path):
  path = corpora.write_tar(tmp_path / "0.tar", {f"a.{number}": b"x" for number in range(9)})
  *_, group = tar_files.iterate_groups(epath.Path(path), (".mp4",))
  assert group.describe_unused().endswith("'a.4' and 4 more") and group.describe_unused("a.8").endswith(": 'a.8'")


@pytest.mark.parametrize("forms", [("NFD", "NFC"), ("NFC", "NFD"), ("NFD", "NFD")])
def test_unicode_forms_of_a_key_are_one_group(tmp_path, forms):
  video, text = (unicodedata.normalize(form, f"é/café.{end}") for form, end in zip(forms, ("mp4", "txt"), strict=True))
  path = corpora.write_tar(tmp_path / "0.tar", {video: b"video", text: "t", "x.txt": "u"})
  name = unicodedata.normalize("NFC", "é/café")
  assert groups(path) == [(name, {f"{name}.mp4": b"video", f"{name}.txt": b"t"}), ("x", {"x.txt": b"u"})]
