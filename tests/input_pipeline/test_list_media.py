"""Listing of videos and images in folders and text files."""

import gzip
import io
import os

import corpora
import numpy as np
import pytest
from PIL import Image

from clipvip_jax.input_pipeline import list_media, remote_video
from clipvip_jax.utils import storage
from clipvip_jax.utils.errors import UserError


@pytest.fixture(scope="module")
def mp4(tmp_path_factory):
  return corpora.write_video(tmp_path_factory.mktemp("video") / "a.mp4").read_bytes()


@pytest.fixture(autouse=True)
def logged(caplog):
  caplog.set_level("INFO", "clipvip_jax")
  return caplog


def picture(width=32, suffix="JPEG", camera=""):
  out = io.BytesIO()
  exif = Image.Exif()
  if camera:
    exif[0x010F] = camera
  Image.fromarray(np.full((32, width, 3), 90, np.uint8)).save(out, suffix, exif=exif)
  return out.getvalue()


def listed(folder):
  return [str(path.relative_to(folder)) for path in list_media.list_videos(folder)]


def write(folder, files):
  for name, data in files.items():
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)


ODD_NAMES = (
  "a.mts",
  "b.m2ts",
  "c.ogv",
  "d.3g2",
  "e.asf",
  "f.vob",
  "g.f4v",
  "h.avif",
  "no_suffix",
  "i.download",
  "#j.mp4",
)


def test_media_is_recognised_by_name_or_content(tmp_path, mp4, logged):
  write(tmp_path, dict.fromkeys(ODD_NAMES, mp4) | {"k.avif": picture(suffix="AVIF"), "l.tif": picture(suffix="TIFF")})
  write(tmp_path, {"notes.txt": b"a text", "table.csv": b"a,b", "x.npy": bytes(range(256)) * 40, ".b.mp4": mp4})
  assert listed(tmp_path) == sorted([*ODD_NAMES, "k.avif", "l.tif"])
  assert "ignored 4 entries" in logged.text
  assert all(name in logged.text for name in ("notes.txt", "table.csv", "x.npy", ".b.mp4"))


def test_companions_of_videos_are_not_logged_as_ignored(bucket, tmp_path, mp4, logged):
  files = {"a.mp4": mp4, "a.srt": b"1", "v/b.mp4": mp4, "v/b.en.VTT": b"2", "v/a.srt": b"no video", "a.txt": b""}
  write(tmp_path, files)
  bucket.upload(tmp_path, "v")
  for folder in (tmp_path, bucket / "v"):
    logged.clear()
    assert len(list_media.list_videos(folder, companions=(".srt", ".vtt"))) == 2
    assert "ignored 2 entries" in logged.text and "a.txt, v/a.srt" in logged.text
    list_media.list_videos(folder)
    assert "ignored 4 entries" in logged.text


def test_images_beside_videos_are_items_unless_they_are_previews(tmp_path, mp4, logged):
  write(tmp_path, {"a.mp4": mp4, "a.jpg": picture(), "photo.jpg": picture(), "1.png": picture(), "2.png": picture()})
  assert listed(tmp_path) == ["1.png", "2.png", "a.mp4", "photo.jpg"]
  assert "ignored 1 entries" in logged.text and "a.jpg" in logged.text


@pytest.mark.parametrize(
  "images",
  [
    {"cat.jpg": picture(), "dog.jpg": picture()},
    {"1.jpg": picture(), "2.jpg": picture(), "cover.jpg": picture()},
    {"1.jpg": picture(), "2.jpg": picture(48)},
    {"IMG_0001.jpg": picture(), "IMG_0009.jpg": picture(), "IMG_0012.jpg": picture(), "IMG_0040.jpg": picture()},
    {"IMG_1.jpg": picture(camera="Canon"), "IMG_2.jpg": picture(camera="Canon")},
    {"a1.jpg": picture(), "b2.jpg": picture()},
    {"1.jpg": picture(), "01.jpg": picture()},
  ],
)
def test_loose_photographs_are_items(tmp_path, images):
  write(tmp_path, images)
  assert listed(tmp_path) == sorted(images)


@pytest.mark.parametrize(
  "names",
  [
    [f"{number}.jpg" for number in range(12)],
    [f"frame_{number:04d}_left.png" for number in (10, 20, 30)],
    [f"v_x1/v_x1_{number:03d}.JPG" for number in range(3)],
    [f"{number}.jpg" for number in range(30) if number != 7],
  ],
)
def test_a_folder_of_frames_is_one_video(tmp_path, names, logged):
  write(tmp_path / "clip", dict.fromkeys(names, picture()))
  (path,) = listed(tmp_path)
  assert path == str((tmp_path / "clip" / names[0]).parent.relative_to(tmp_path))
  assert f"read 1 folders of numbered images as one video each: {tmp_path}/{path}" in logged.text


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_of_a_list_end_as_any_editor_ends_them(tmp_path, mp4, end):
  write(tmp_path, {"a 1.mp4": mp4, "b.mp4": mp4})
  (tmp_path / "list.txt").write_bytes(f"\ufeffa 1.mp4{end}{end}b.mp4{end}".encode())
  assert [path.name for path in list_media.list_videos(tmp_path / "list.txt")] == ["a 1.mp4", "b.mp4"]


def test_a_line_that_starts_with_a_number_sign_may_be_a_file(tmp_path, mp4, logged):
  write(tmp_path, {"#shorts cat.mp4": mp4})
  (tmp_path / "list.txt").write_text("# a comment\n#shorts cat.mp4\n#gone.mp4\n")
  assert [path.name for path in list_media.list_videos(tmp_path / "list.txt")] == ["#shorts cat.mp4"]
  assert "ignored 2 comment lines: # a comment, #gone.mp4" in logged.text


def test_all_paths_of_a_file_are_one_item(tmp_path, mp4, logged):
  write(tmp_path, {"a.mp4": mp4, "sub/b.mp4": mp4, "cafe\u0301.mp4": mp4})
  (tmp_path / "link.mp4").symlink_to("a.mp4")
  assert listed(tmp_path) == ["a.mp4", "cafe\u0301.mp4", "sub/b.mp4"]
  assert "ignored 1 other paths of the same files" in logged.text and "link.mp4" in logged.text
  lines = ["./a.mp4", "a.mp4", "sub/../a.mp4", f"{tmp_path}/a.mp4", "caf\u00e9.mp4", "cafe\u0301.mp4", "gone.mp4"]
  (tmp_path / "list.txt").write_text("\n".join(lines))
  paths = list_media.list_videos(tmp_path / "list.txt")
  assert paths == [tmp_path / name for name in ("a.mp4", "cafe\u0301.mp4", "gone.mp4")]


def test_a_single_file_is_recognised_by_name_or_content(tmp_path, mp4):
  write(tmp_path, dict.fromkeys(("a.mp4", "b.mts", "c"), mp4))
  for name in ("a.mp4", "b.mts", "c"):
    assert list_media.list_videos(tmp_path / name) == [tmp_path / name]


@pytest.mark.parametrize("content", ['\n{"video": "a.mp4", "text": "x"}\n', '["a.mp4"]', '[\n "a.mp4"\n]', "{\n}"])
def test_a_manifest_is_rejected_with_a_remedy(tmp_path, content):
  (tmp_path / "m.jsonl").write_text(content)
  with pytest.raises(UserError, match=r"m\.jsonl: this is JSON, .*: jq -r \.video m\.jsonl > LIST\.txt"):
    list_media.list_videos(tmp_path / "m.jsonl")


def test_names_in_a_list_need_not_be_utf_8(tmp_path):
  (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbfcaf\xe9.mp4\r\n")
  assert list_media.list_videos(tmp_path / "list.txt") == [tmp_path / os.fsdecode(b"caf\xe9.mp4")]


def test_videos_and_folders_of_frames_below_a_folder_are_listed(tmp_path):
  for name in ("b.mp4", "a/z.AVI", "a/poster.jpg", "frames/1.jpg", "frames/2.jpg", ".hidden/x.mp4", ".x.mp4", "n.txt"):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"x")
  found = [str(path.relative_to(tmp_path)) for path in list_media.list_videos(tmp_path)]
  assert found == ["a/poster.jpg", "a/z.AVI", "b.mp4", "frames"]


def test_paths_in_a_list_are_relative_to_the_list(tmp_path):
  (tmp_path / "list.txt").write_text("# two\na.mp4\n\n  b c.mp4  \n/abs/d.mp4\n")
  assert [str(p) for p in list_media.list_videos(tmp_path / "list.txt")] == [
    str(tmp_path / "a.mp4"),
    str(tmp_path / "b c.mp4"),
    "/abs/d.mp4",
  ]


@pytest.mark.parametrize(
  ("content", "message"),
  [
    ("# nothing\n", "the list has no videos; write one path per line"),
    (gzip.compress(b"a.mp4\n" * 99, mtime=0), r"list\.txt: the file is compressed .gzip.; decompress it: gzip -dc"),
    (b"\x28\xb5\x2f\xfdshort", r"list\.txt: the file is compressed .zstd.; decompress it: zstd -dc"),
    (b"\xff\xfe\x00", "not a readable list of videos .binary content or UTF-16; write UTF-8."),
  ],
)
def test_empty_and_binary_lists_are_rejected(tmp_path, content, message):
  path = tmp_path / "list.txt"
  path.write_bytes(content.encode() if isinstance(content, str) else content)
  with pytest.raises(UserError, match=message):
    list_media.list_videos(path)
  with pytest.raises(UserError, match=r"none: not a folder, and not a readable list of videos .No such file"):
    list_media.list_videos(tmp_path / "none")
  with pytest.raises(UserError, match=r"no videos, images or folders of frames .* name another one"):
    (tmp_path / "folder").mkdir()
    list_media.list_videos(tmp_path / "folder")


def test_linked_folders_are_listed_once(tmp_path):
  (tmp_path / "top" / "real").mkdir(parents=True)
  (tmp_path / "top" / "real" / "x.mp4").write_bytes(b"x")
  (tmp_path / "top" / "loop").symlink_to(tmp_path / "top")
  (tmp_path / "other").mkdir()
  (tmp_path / "other" / "y.mp4").write_bytes(b"y")
  (tmp_path / "top" / "linked").symlink_to(tmp_path / "other")
  found = [str(path.relative_to(tmp_path / "top")) for path in list_media.list_videos(tmp_path / "top")]
  assert found == ["linked/y.mp4", "real/x.mp4"]


def test_pipes_are_passed_over(tmp_path, mp4, logged):
  """Reading one would wait for ever."""
  write(tmp_path, {"x.mp4": mp4})
  for name in ("a.mp4", "b.jpg", "c"):
    os.mkfifo(tmp_path / name)
  assert listed(tmp_path) == ["x.mp4"]
  assert "ignored 3 entries" in logged.text and "a.mp4, b.jpg, c" in logged.text


def test_a_folder_in_a_bucket_has_the_items_of_the_same_local_folder(bucket, tmp_path, mp4, logged):
  files = {f"frames/{number:03d}.jpg": picture() for number in range(4)}
  files |= {f"photos/{number}.jpg": picture(32 + number) for number in range(3)}
  files |= {"b/a.mp4": mp4, "b/a.jpg": picture(), "b/c.png": picture(suffix="PNG"), "D.MP4": mp4, "x/y [1]#.mp4": mp4}
  files |= {"notes.txt": b"text", ".hidden/a.mp4": mp4, "b/._a.mp4": b"fork"}
  write(tmp_path, files)
  bucket.upload(tmp_path, "v")
  local = [path.relative_to(tmp_path).as_posix() for path in list_media.list_videos(tmp_path)]
  logged.clear()
  assert [str(path) for path in list_media.list_videos(bucket / "v")] == [bucket / f"v/{name}" for name in local]
  assert "ignored 4 entries" in logged.text and "notes.txt" in logged.text
  assert "read 1 folders of numbered images as one video each: " + (bucket / "v/frames") in logged.text


def test_lists_and_single_files_in_buckets(bucket, tmp_path, mp4):
  for name in ("v/a.mp4", "v/b.mp4"):
    bucket.write(name, mp4)
  bucket.write("v/list.txt", b"a.mp4\n# comment\n" + (bucket / "v/b.mp4").encode() + b"\na.mp4\n")
  both = [bucket / "v/a.mp4", bucket / "v/b.mp4"]
  assert [str(path) for path in list_media.list_videos(bucket / "v/list.txt")] == both
  (tmp_path / "list.txt").write_text("\n".join(both))
  assert [str(path) for path in list_media.list_videos(tmp_path / "list.txt")] == both
  assert [str(path) for path in list_media.list_videos(both[0])] == both[:1]
  with pytest.raises(UserError, match=r"/none: not a folder, and not a readable list of videos"):
    list_media.list_videos(bucket / "none")
  bucket.write("lists/list.txt", b"../v/a.mp4\n./../v/b.mp4\n")
  assert [str(path) for path in list_media.list_videos(bucket / "lists/list.txt")] == both
  bucket.write("lists/absolute.txt", b"/v/a.mp4\n")
  with pytest.raises(UserError, match=r"/v/a.mp4: a list in a bucket has addresses or paths relative to it"):
    list_media.list_videos(bucket / "lists/absolute.txt")
  bucket.write("w/notes.txt", b"text")
  with pytest.raises(UserError, match=r"/w: no videos, images or folders of frames in this folder"):
    list_media.list_videos(bucket / "w")


def test_images_whose_size_the_store_refuses_are_not_taken_for_frames(gs_bucket, monkeypatch):
  for number in range(3):
    gs_bucket.write(f"photos/{number}.jpg", picture(32 + number))

  def refuse(*_):
    raise UserError("the bucket refuses")

  monkeypatch.setattr(remote_video, "fetch", refuse)
  with pytest.raises(UserError, match="the bucket refuses"):
    list_media.list_videos(gs_bucket / "photos")


def test_addresses_in_a_list_need_their_package(tmp_path, monkeypatch):
  (tmp_path / "list.txt").write_text("gs://a-bucket/a.mp4\n")
  monkeypatch.setattr(storage.importlib.util, "find_spec", lambda name: None)
  with pytest.raises(UserError, match=r"gs://a-bucket/a.mp4 needs gcsfs, which is not installed: pip install"):
    list_media.list_videos(tmp_path / "list.txt")
