"""Labelled videos: folders, manifests, the owners' lists, and what is refused."""

import json
import os

import pytest
from videos import write_videos

from clipvip_jax.evaluation.class_list import read_classes
from clipvip_jax.evaluation.labelled_videos import check_disjoint, read_videos
from clipvip_jax.utils import storage, transfers
from clipvip_jax.utils.errors import UserError


def classes_of(tmp_path, *lines):
  path = tmp_path / "class_list.txt"
  path.write_text("\n".join(lines))
  return read_classes(path)


def write(tmp_path, name, content):
  path = tmp_path / name
  path.write_text(content if isinstance(content, str) else json.dumps(content))
  return path


def touch(folder, *names):
  for name in names:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).touch()


def read(source, classes, folder, **options):
  """(path relative to a folder, start, end, class) of each video."""
  return [
    (os.path.relpath(video.clip.path, folder), video.clip.start, video.clip.end, classes.names[video.label])
    for video in read_videos(source, classes, **options)
  ]


def test_a_folder_with_one_subfolder_per_class(tmp_path):
  for name in ("ApplyEyeMakeup", "brush_hair"):
    (tmp_path / "ucf" / name).mkdir(parents=True)
    write_videos(tmp_path / "ucf" / name / "g01", 2)
  classes = classes_of(tmp_path, "brush hair", "apply eye makeup", "unused")
  assert read(tmp_path / "ucf", classes, tmp_path / "ucf") == [
    ("ApplyEyeMakeup/g01/000.mp4", None, None, "apply eye makeup"),
    ("ApplyEyeMakeup/g01/001.mp4", None, None, "apply eye makeup"),
    ("brush_hair/g01/000.mp4", None, None, "brush hair"),
    ("brush_hair/g01/001.mp4", None, None, "brush hair"),
  ]
  write_videos(tmp_path / "ucf", 1)
  with pytest.raises(UserError, match=r"000\.mp4 is in no sub-folder, which would name its class"):
    read_videos(tmp_path / "ucf", classes)


@pytest.mark.parametrize(
  ("name", "content"),
  [
    ("a.jsonl", '{"video": "v/a.mp4", "label": "run"}\n{"video": "v/b.mp4", "label": 0, "start": 1.5, "end": 3}\n'),
    ("a.json", [{"video": "v/a.mp4", "label": "run"}, {"video": "v/b.mp4", "label": "0", "start": 1.5, "end": 3}]),
    ("a.csv", "video,label,start,end\nv/a.mp4,Run,,\nv/b.mp4,0,1.5,3\n"),
    ("a.tsv", "video\tlabel\tstart\tend\nv/a.mp4\tRun\t\t\nv/b.mp4\t0\t1.5\t3\n"),
  ],
)
def test_manifests_with_times(tmp_path, name, content):
  classes = read_classes(write(tmp_path, "classes.csv", "id,name\n0,walk\n1,run\n"))
  expected = [("v/a.mp4", None, None, "run"), ("v/b.mp4", 1.5, 3.0, "walk")]
  assert read(write(tmp_path, name, content), classes, tmp_path) == expected
  (tmp_path / "elsewhere").mkdir()
  source = write(tmp_path / "elsewhere", name, content)
  assert read(source, classes, tmp_path, video_dir=tmp_path) == expected


@pytest.mark.parametrize(("source", "listings"), [("v", 1), ("v.jsonl", 0)], ids=["folder", "videos of a list"])
def test_a_folder_in_a_bucket_is_listed_only_for_its_videos(bucket, tmp_path, monkeypatch, source, listings):
  bucket.write("v/run/a.mp4", b"video")
  bucket.write("v.jsonl", b'{"video": "run/a.mp4", "label": "run"}\n')
  calls, list_names = [], transfers.list_names
  monkeypatch.setattr(transfers, "list_names", lambda path: calls.append(path) or list_names(path))
  folder, classes = storage.absolute(bucket / "v"), classes_of(tmp_path, "run")
  videos = read_videos(storage.absolute(bucket / source), classes, None if source == "v" else folder)
  assert [video.clip.path for video in videos] == [bucket / "v/run/a.mp4"] and len(calls) == listings
  for name in ("none", "v.jsonl"):
    with pytest.raises(UserError, match=r"^--video_dir=.* is not a folder; name that of the videos"):
      read_videos(storage.absolute(bucket / source), classes, storage.absolute(bucket / name))


def test_addresses_in_a_local_list(tmp_path):
  rows = [{"video": "gs://a-bucket/v/a.mp4", "label": "run"}, {"video": "b.mp4", "label": "run"}]
  videos = read_videos(
    write(tmp_path, "a.json", rows), read_classes(write(tmp_path, "classes.csv", "id,name\n0,run\n"))
  )
  assert [video.clip.path for video in videos] == ["gs://a-bucket/v/a.mp4", str(tmp_path / "b.mp4")]


def test_lists_of_ucf101(tmp_path):
  touch(tmp_path / "v", "Archery/v_Archery_g01.avi", "YoYo/v_YoYo_g02.mp4")
  classes = classes_of(tmp_path, "1 Archery", "2 YoYo")
  test = write(tmp_path, "testlist01.txt", "Archery/v_Archery_g01.avi\r\nYoYo/v_YoYo_g02.avi\r\nYoYo/v_YoYo_g03.avi\n")
  train = write(tmp_path, "trainlist01.tsv", "Archery/v_Archery_g01.avi\t1\nYoYo/v_YoYo_g02.avi\t2\n")
  found = [
    ("Archery/v_Archery_g01.avi", None, None, "Archery"),
    ("YoYo/v_YoYo_g02.mp4", None, None, "YoYo"),
    ("YoYo/v_YoYo_g03.avi", None, None, "YoYo"),
  ]
  assert read(test, classes, tmp_path / "v", video_dir=tmp_path / "v") == found, "a missing video is reported later"
  assert read(train, classes, tmp_path / "v", video_dir=tmp_path / "v") == found[:2]
  without_ids = classes_of(tmp_path, "archery", "yo yo")
  assert [row[3] for row in read(train, without_ids, tmp_path, video_dir=tmp_path / "v")] == ["archery", "yo yo"]


def test_ids_that_contradict_the_folders_of_the_videos_are_refused(tmp_path):
  classes = classes_of(tmp_path, "1 Archery", "2 YoYo", "3 Biking")
  from_zero = write(tmp_path, "a.txt", "Archery/a.avi 0\nYoYo/b.avi 1\nBiking/c.avi 2\n")
  with pytest.raises(UserError, match=r"a\.txt, line 2: '1' is class 'Archery' of --classes, but the folder is 'YoYo'"):
    read_videos(from_zero, classes)
  shifted = write(tmp_path, "b.txt", "yo_yo/a.avi 3\n")
  with pytest.raises(UserError, match=r"b\.txt, line 1: '3' is class 'Biking' of --classes, but the folder is 'yo_yo'"):
    read_videos(shifted, classes)
  numbered = write(tmp_path, "c.txt", "2/a.avi 1\nshard/b.avi 3\n")  # names of folders that are not of classes
  assert [row[3] for row in read(numbered, classes, tmp_path)] == ["Archery", "Biking"]


def test_split_files_of_hmdb51(tmp_path):
  touch(tmp_path / "v", "brush_hair/a.avi", "brush_hair/b.avi", "brush_hair/c.avi", "cartwheel/d.avi")
  (tmp_path / "splits").mkdir()
  write(tmp_path / "splits", "brush_hair_test_split1.txt", "a.avi 1 \nb.avi 2 \nc.avi 0 \n")
  write(tmp_path / "splits", "cartwheel_test_split1.txt", "d.avi 2 \n")
  write(tmp_path / "splits", "cartwheel_test_split2.txt", "d.avi 1 \n")
  classes = classes_of(tmp_path, "brush hair", "cartwheel")
  pattern = tmp_path / "splits" / "*_test_split1.txt"
  options = {"video_dir": tmp_path / "v"}
  assert read(pattern, classes, tmp_path / "v", **options) == [
    ("brush_hair/b.avi", None, None, "brush hair"),
    ("cartwheel/d.avi", None, None, "cartwheel"),
  ]
  assert read(pattern, classes, tmp_path / "v", part="train", **options) == [
    ("brush_hair/a.avi", None, None, "brush hair")
  ]
  write(tmp_path / "splits", "cartwheel_test_split1.txt", "d.avi 3\n")
  with pytest.raises(UserError, match=r"cartwheel_test_split1\.txt, line 1: expected NAME 0, 1 or 2"):
    read_videos(pattern, classes, **options)
  with pytest.raises(UserError, match="no labelled videos"):
    read_videos(tmp_path / "splits" / "*_test_split9.txt", classes, **options)


@pytest.mark.parametrize("place", ["{}", "air drumming/{}", "air_drumming/{}", "val/{}", "val/air drumming/{}"])
def test_csv_of_kinetics(tmp_path, place):
  touch(tmp_path, place.format("--33Lscn6sk_000004_000014.webm"))
  table = "label,youtube_id,time_start,time_end,split\nair drumming,--33Lscn6sk,4,14,val\nair drumming,gone,1,11,val\n"
  classes = classes_of(tmp_path, "abseiling", "air drumming")
  first, second = read(write(tmp_path, "val.csv", table), classes, tmp_path)
  assert first == (place.format("--33Lscn6sk_000004_000014.webm"), None, None, "air drumming")
  assert second[0] == "gone_000001_000011.mp4"


def test_json_of_something_something(tmp_path):
  rows = [
    {"id": "78687", "label": "holding potato", "template": "Holding [something]", "placeholders": ["potato"]},
    {"id": 2, "label": "closing a jar", "template": "Closing [something]", "placeholders": ["a jar"]},
  ]
  touch(tmp_path / "v", "78687.webm", "2.mp4")
  classes = read_classes(write(tmp_path, "labels.json", {"Closing something": "0", "Holding something": "1"}))
  assert read(write(tmp_path, "validation.json", rows), classes, tmp_path / "v", video_dir=tmp_path / "v") == [
    ("78687.webm", None, None, "Holding something"),
    ("2.mp4", None, None, "Closing something"),
  ]


@pytest.mark.parametrize(
  ("name", "content", "message"),
  [
    (
      "a.jsonl",
      "".join(f'{{"video": "{i}.mp4", "label": "x{i}"}}\n' for i in range(7)) + '{"video": "b", "label": "run"}',
      r"a\.jsonl, line 1: 7 of 8 videos have labels that are not in the class list: 'x0', .*'x4' and 2 more; correct",
    ),
    ("a.jsonl", '{"video": "a.mp4"}', "line 1, label: an id or path must be a non-empty string.*got null"),
    ("a.jsonl", '{"video": "a.mp4", "label": true}', "line 1, label: .*got true"),
    ("a.jsonl", '{"label": "run"}', "line 1, video: an id or path"),
    ("a.jsonl", '{"video": "a.mp4", "text": "x"}', 'unknown field "text"; use video, label, start, end'),
    ("a.jsonl", '{"video": "a", "label": "run", "start": 3, "end": 2}', "end=2 must be greater than start=3"),
    (
      "a.csv",
      "video,label,start\na,run,soon\n",
      'line 2: start must be seconds from 0 to 1e.08, got the string "soon"',
    ),
    ("a.csv", "video,class\na,run\n", "no column label; the file has video, class"),
    ("a.csv", "label,youtube_id,time_start\nrun,x,1\n", "time_start and time_end must be seconds"),
    ("a.json", {"video": "a"}, "expected a list of objects with video and label"),
    ("a.json", ["a.mp4"], 'entry 1: expected an object with video and label, got "a.mp4"'),
    ("a.txt", "a.mp4\n", "names no class; write CLASS/NAME, or NAME ID"),
    ("a.txt", "../run/a.mp4\n", "is outside of the folder of videos"),
    ("a.txt", "\n", "no labelled videos; see --help"),
    ("a.jsonl", '{"video": "a", "label": "run"}\n{"video": "./a", "label": "walk"}', "line 2: .*another label than at"),
  ],
)
def test_invalid_lists_are_refused_in_one_line(tmp_path, name, content, message):
  classes = classes_of(tmp_path, "run", "walk")
  with pytest.raises(UserError, match=message) as refused:
    read_videos(write(tmp_path, name, content), classes)
  assert "\n" not in str(refused.value)


def test_repeated_rows_count_once_and_are_logged(tmp_path, caplog):
  content = '{"video": "a", "label": "run"}\n{"video": "./a", "label": "Run"}\n{"video": "a", "label": "run", "end": 2}'
  with caplog.at_level("INFO", logger="clipvip_jax"):
    videos = read_videos(write(tmp_path, "a.jsonl", content), classes_of(tmp_path, "run"))
  assert [video.clip.end for video in videos] == [
    None,
    2.0,
  ] and "1 rows repeat a video of an earlier row" in caplog.text


def test_videos_in_both_parts_are_refused(tmp_path):
  classes = classes_of(tmp_path, "run")
  train, test, other = (
    read_videos(write(tmp_path, "a.jsonl", "".join(f'{{"video": "{v}", "label": "run"}}\n' for v in names)), classes)
    for names in (("a", "b"), ("c", "./b"), ("d",))
  )
  with pytest.raises(UserError, match=r"1 videos are in both --train and --videos, first .*b; remove them from one"):
    check_disjoint(train, test)
  check_disjoint(train, other)


def test_folder_of_videos_that_does_not_exist_is_refused(tmp_path):
  classes = classes_of(tmp_path, "run")
  with pytest.raises(UserError, match=r"--video_dir=.*none is not a folder"):
    read_videos(write(tmp_path, "a.txt", "run/a.mp4"), classes, tmp_path / "none")
