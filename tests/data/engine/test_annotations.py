"""Annotation files, and the search for videos."""

import json

import pytest
from etils import epath

from clipvip_jax.data.engine.annotations import (
  Clip,
  VideoFinder,
  find_file,
  make_items,
  merge_clips,
  read_json_clips,
  stem,
)
from clipvip_jax.utils.errors import UserError


def test_stem_removes_all_video_extensions():
  assert [stem(name) for name in ("x", "x.mp4", "x.mov.MP4", "x.y.avi", "a/x.1.2")] == ["x", "x", "x", "x.y", "a/x.1.2"]


def test_find_file_searches_folders_of_annotations(tmp_path):
  folder = epath.Path(tmp_path)
  (folder / "annotation").mkdir()
  (folder / "annotation/b.json").write_text("{}")
  assert find_file(folder, "a.json", "b.json") == folder / "annotation/b.json"
  with pytest.raises(UserError, match=r"no annotations; put a\.json here, or in annotation or annotations"):
    find_file(folder, "a.json")


@pytest.mark.parametrize(
  ("name", "content"),
  [
    ("a.jsonl", '{"clip_id": "x", "text": "t"}\n{"video": "y", "caption": ["u", "v"]}'),
    ("a.json", json.dumps([{"video_id": "x", "description": "t"}, {"clip_id": "y", "sentences": ["u", "v"]}])),
    ("a.json", json.dumps({"x": {"text": "t"}, "y": {"sentences": ["u", "v"]}})),
  ],
)
def test_reads_all_forms_of_json(tmp_path, name, content):
  path = epath.Path(tmp_path / name)
  path.write_text(content)
  assert [row[1:] for row in read_json_clips(path)] == [("x", "t"), ("y", ["u", "v"])]


def test_rows_of_the_same_clip_are_merged():
  clips = merge_clips([("line 1", "x.mp4", "a"), ("line 2", "y", "b"), ("line 3", "x.avi", ["c", ""])])
  assert clips == {"x": Clip("x.mp4", "line 1", ["a", "c"]), "y": Clip("y", "line 2", ["b"])}


@pytest.fixture
def videos(tmp_path):
  for name in ("videos/x.avi", "videos/x.mp4", "videos/sub/y.mkv", "other/z.mp4", "w.mp4"):
    (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
    (tmp_path / name).touch()
  return epath.Path(tmp_path)


def test_finds_videos_with_any_extension(videos):
  finder = VideoFinder(videos, "", ("videos", "missing"))
  paths = [finder.path(names) for names in (["x"], ["sub/y.mp4"], ["no", "x"], ["w"], ["gone"], ["gone.avi"])]
  expected = ["videos/x.mp4", "videos/sub/y.mkv", "videos/x.mp4", "w.mp4", "videos/gone.mp4", "videos/gone.avi"]
  assert paths == [str(videos / name) for name in expected]


@pytest.mark.parametrize(("stored", "asked"), [("caf\u00e9", "cafe\u0301"), ("cafe\u0301", "caf\u00e9")])
def test_names_match_in_either_unicode_form(tmp_path, stored, asked):
  (tmp_path / stored).mkdir()
  (tmp_path / stored / f"{stored}.mp4").touch()
  finder = VideoFinder(epath.Path(tmp_path), "", ())
  assert finder.path([f"{asked}/{asked}"]) == f"{tmp_path}/{stored}/{stored}.mp4"
  assert merge_clips([("line 1", stored, "a"), ("line 2", f"{asked}.mp4", "b")]) == {
    "caf\u00e9": Clip(stored, "line 1", ["a", "b"])
  }


def test_named_folder_replaces_the_default_ones(videos):
  assert VideoFinder(videos, "other", ("videos",)).path(["x"]) == str(videos / "other/x.mp4")
  with pytest.raises(UserError, match=r"videos='gone': no such folder in .*; name the folder of videos"):
    VideoFinder(videos, "gone", ())


def test_items_join_texts_on_request(videos):
  clip = Clip("videos/x.mov", "line 1", ["a", "b"])
  finder = VideoFinder(videos, "", ("videos",))
  (single,), (joined,) = (list(make_items("train", [clip], finder, join_texts=join)) for join in (False, True))
  assert single.descriptions == ("a", "b") and joined.descriptions == ("a b",)
  assert single.id == "x" and single.video == str(videos / "videos/x.mp4")
