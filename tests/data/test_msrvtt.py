"""A miniature of MSR-VTT, in each redistributed form."""

import csv
import dataclasses
import json

import corpora
import protocols
import pytest

from clipvip_jax.data.engine.coverage import SKIPPED_FILE
from clipvip_jax.data.msrvtt.msrvtt_dataset_builder import Builder
from clipvip_jax.utils.errors import UserError

TRAIN, TEST = [f"video{n}" for n in range(6)], [f"video{n}" for n in range(7010, 7014)]


def captions(name, count=20):
  return [f"caption {i} of {name}" for i in range(count)]


def write_table(path, header, rows):
  with path.open("w", newline="") as file:
    csv.writer(file).writerows([header, *rows])


def write_lists(folder, train, test, name="9k"):
  """Lists of videos in the form of CLIP4Clip's authors."""
  write_table(folder / f"MSRVTT_train.{name}.csv", ["video_id"], [[video] for video in train])
  rows = [[f"ret{i}", f"msr{video[5:]}", video, f"query, {video}"] for i, video in enumerate(test)]
  write_table(folder / "MSRVTT_JSFUSION_test.csv", ["key", "vid_key", "video_id", "sentence"], rows)


def write_captions(path, splits, count=20):
  """Writes the owner's file, or CLIP4Clip's, of {video: split}; captions of all videos are interleaved."""
  rows = [{"video_id": v, "caption": c, "sen_id": i} for i in range(count) for v in splits for c in [captions(v)[i]]]
  videos = [{"video_id": video, "split": split, "url": "u"} for video, split in splits.items()]
  path.write_text(json.dumps({"videos": videos, "sentences": rows}))


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
  """Ten valid videos, one with another extension; video6 is missing, video7 empty and video8 truncated."""
  folder = tmp_path_factory.mktemp("videos")
  for seed, name in enumerate([*TRAIN, *TEST, "video8"]):
    corpora.write_video(folder / f"{name}.mp4", count=10, fps=12, seed=seed)
  (folder / "video7.mp4").touch()
  cut = folder / "video8.mp4"
  cut.write_bytes(cut.read_bytes()[:-300])
  (folder / f"{TEST[3]}.mp4").rename(folder / f"{TEST[3]}.webm")
  return folder


def source(folder, videos, name="videos"):
  (folder / name).parent.mkdir(parents=True, exist_ok=True)
  (folder / name).symlink_to(videos)
  return folder


def texts(builder, split):
  return {record["id"]: record["description"] for record in corpora.read_back(builder, split)}


@pytest.fixture(scope="module")
def built(videos, tmp_path_factory):
  """CLIP4Clip's lists and captions with videos/all."""
  folder = source(tmp_path_factory.mktemp("msrvtt"), videos, "videos/all")
  train = [*TRAIN, "video6", "video7", "video8"]
  write_lists(folder, train, TEST)
  write_captions(folder / "MSRVTT_data.json", dict.fromkeys([*train, *TEST], "train"))
  return corpora.build(Builder, "9k", folder / "corpora", folder, max_skipped=0.5)


def test_train_has_all_captions_and_1ka_has_one(built):
  assert texts(built, "train") == {name: captions(name) for name in TRAIN}
  assert texts(built, "test") == {name: [f"query, {name}"] for name in TEST}
  records = corpora.read_back(built, "train") + corpora.read_back(built, "test")
  assert {record["num_frames"] for record in records} == {5}  # six a second of twelve
  assert not any(record["subtitle"] or record["caption"] for record in records)


def test_1ka_has_one_query_per_clip(built):
  queries = {name: [f"query, {name}"] for name in TEST}
  protocols.check_evaluation(built, {"test": queries}, ("text_to_video", "video_to_text"))


def test_skipped_clips_are_counted_and_listed(built):
  counts = built.info.metadata["coverage"]
  assert {key: counts["train"][key] for key in ("expected", "found", "missing", "undecodable")} == {
    "expected": 9, "found": 6, "missing": 1, "undecodable": 2,
  }  # fmt: skip
  assert counts["test"]["found"] == counts["test"]["expected"] == 4
  rows = [line.split("\t") for line in (built.data_path / SKIPPED_FILE).read_text().splitlines()]
  assert [row[1:3] for row in rows] == [["missing", "video6"], ["undecodable", "video7"], ["undecodable", "video8"]]
  assert rows[0][3].endswith("videos/all/video6.mp4: no such file")


@pytest.mark.slow
@pytest.mark.unoptimized
def test_trains_two_steps(built, tmp_path):
  fields = {"loss": "vs", "data.subtitle": "description", "evaluate.selection_split": "test"}
  results = corpora.train_two_steps(built, tmp_path / "run", **fields, **{"evaluate.final_splits": ("test",)})
  assert results["step"] == 2 and results["splits"]["test"]["size"] == 4


def test_full_has_the_owners_splits(videos, tmp_path):
  folder = tmp_path / "msrvtt"
  for name, clips in (("TrainValVideo", TRAIN), ("TestVideo", TEST)):
    (folder / name).mkdir(parents=True)
    for path in videos.iterdir():
      if path.stem in clips:
        (folder / name / path.name).symlink_to(path)
  splits = dict.fromkeys(TRAIN[:4], "train") | dict.fromkeys(TRAIN[4:], "validate")
  write_captions(folder / "train_val_videodatainfo.json", splits)
  write_captions(folder / "test_videodatainfo.json", dict.fromkeys(TEST, "test"))
  builder = corpora.build(Builder, "full", tmp_path / "corpora", folder)
  found = {split: texts(builder, split) for split in ("train", "validation", "test")}
  assert {split: list(clips) for split, clips in found.items()} == {
    "train": TRAIN[:4], "validation": TRAIN[4:], "test": TEST,
  }  # fmt: skip
  assert all(clips[name] == captions(name) for clips in found.values() for name in clips)
  directions = ("text_to_video", "video_to_text", "video_to_text_grouped")
  protocols.check_evaluation(builder, {"test": {name: captions(name) for name in TEST}}, directions)


def plan(folder, config="9k", **options):
  return corpora.planned(Builder, config, folder, **options)


def test_reads_json_lines_and_lists(videos, tmp_path):
  """Files of CLIP-ViP's and VindLU's authors: names with folders, or with the extension."""
  folder = source(tmp_path, videos)
  rows = [{"clip_id": f"msrvtt/{name}", "text": captions(name)} for name in TRAIN]
  corpora.write_lines(folder / "train9k.jsonl", rows)
  corpora.write_lines(folder / "test1ka.jsonl", [{"clip_id": name, "text": "query"} for name in TEST])
  first = plan(folder)
  assert [(item.id, list(item.descriptions)) for item in first["train"]] == [(name, captions(name)) for name in TRAIN]
  assert [(item.id, item.descriptions) for item in first["test"]] == [(name, ("query",)) for name in TEST]
  (folder / "annotations").mkdir()
  for name in ("train9k.jsonl", "test1ka.jsonl"):
    (folder / name).unlink()
  for name, split in (("train9k", "train"), ("test1k", "test")):
    pairs = [{"video": f"{item.id}.mp4", "caption": list(item.descriptions)} for item in first[split]]
    (folder / f"annotations/msrvtt_ret_{name}.json").write_text(json.dumps(pairs))
  assert plan(folder) == first
  assert {path for split in first.values() for path in (item.video for item in split)} == {
    str(folder / "videos" / path.name) for path in videos.iterdir() if path.stem not in ("video7", "video8")
  }


def test_7k_reads_only_the_owners_first_file(tmp_path):
  write_lists(tmp_path, TRAIN, TEST, "7k")
  write_captions(tmp_path / "train_val_videodatainfo.json", dict.fromkeys(TRAIN[1:], "train"))
  found = plan(tmp_path, "7k")["train"]
  assert [len(item.descriptions) for item in found] == [0, *[20] * 5]  # the first will be counted as without text
  assert found[0].video == str(tmp_path / "video0.mp4")
  with pytest.raises(UserError, match=r"no column video_id; the file has clip"):
    write_table(tmp_path / "MSRVTT_train.7k.csv", ["clip"], [])
    plan(tmp_path, "7k")


@pytest.mark.slow
def test_checks_official_sizes(tmp_path):
  """1,000 queries and 9,000 videos pass; one query fewer is an error with both sizes and the flag to accept it."""
  train, test = [f"video{n}" for n in range(9000)], [f"video{n}" for n in range(9000, 10000)]
  write_captions(tmp_path / "MSRVTT_data.json", dict.fromkeys([*train, *test], "train"), count=1)
  write_lists(tmp_path, train, test)
  assert {split: len(items) for split, items in plan(tmp_path, check_sizes=True).items()} == {
    "train": 9000, "test": 1000,
  }  # fmt: skip
  write_lists(tmp_path, train, test[:-1])
  with pytest.raises(UserError, match=r"test has 999 clips, officially 1000.*--check_sizes=false$"):
    plan(tmp_path, check_sizes=True)


@pytest.mark.slow
def test_checks_official_sizes_of_the_other_protocols(tmp_path):
  """7,010 training videos with 1k-A; the owner's 6,513, 497 and 2,990."""
  videos = [f"video{n}" for n in range(10_000)]
  splits = dict.fromkeys(videos[:6513], "train") | dict.fromkeys(videos[6513:7010], "validate")
  splits |= dict.fromkeys(videos[7010:], "test")
  write_captions(tmp_path / "MSRVTT_data.json", splits, count=1)
  write_lists(tmp_path, videos[:7010], videos[7010:8010], "7k")
  sizes = {
    config: {split: len(items) for split, items in plan(tmp_path, config, check_sizes=True).items()}
    for config in ("7k", "full")
  }
  assert sizes == {"7k": {"train": 7010, "test": 1000}, "full": {"train": 6513, "validation": 497, "test": 2990}}
  write_lists(tmp_path, videos[:7009], videos[7010:8010], "7k")
  write_captions(tmp_path / "MSRVTT_data.json", splits | {"video0": "test"}, count=1)
  for config, words in (
    ("7k", "train has 7009 clips, officially 7010"),
    ("full", "train has 6512 clips, officially 6513; test has 2991 clips, officially 2990"),
  ):
    with pytest.raises(UserError, match=words):
      plan(tmp_path, config, check_sizes=True)


GOOD = {"videos": [{"video_id": "video0", "split": "train"}], "sentences": [{"video_id": "video0", "caption": "c"}]}


@pytest.mark.parametrize(
  ("whole", "words"),
  [
    ('{"videos": [', r"MSRVTT_data\.json: cannot be read as JSON"),
    ([], 'MSRVTT_data.json: no list "sentences"'),
    ({**GOOD, "videos": {}}, 'no list "videos"'),
    ({**GOOD, "videos": [7]}, "videos, entry 1: expected a JSON object"),
    (
      {**GOOD, "videos": [{"video_id": "video0"}]},
      'entry 1: .*"split" must be one of train, validate, test, got',
    ),
    ({**GOOD, "videos": [{"video_id": "../x", "split": "train"}]}, r"videos, entry 1: '\.\./x' is outside of"),
    ({**GOOD, "sentences": [{"video_id": "/etc/x", "caption": "c"}]}, "sentences, entry 1: '/etc/x' is outside of"),
    ({**GOOD, "sentences": [{"video_id": "video0"}]}, "sentences, entry 1: a text must be a string, got null"),
    ({**GOOD, "videos": GOOD["videos"] * 2}, "clips 1 and 2 have the same id 'video0'"),
  ],
)
def test_rejects_invalid_captions(tmp_path, whole, words):
  (tmp_path / "MSRVTT_data.json").write_text(whole if isinstance(whole, str) else json.dumps(whole))
  config = dataclasses.replace(Builder.builder_configs["full"], name="mine", splits=("train",))
  with pytest.raises(UserError, match=words) as refused:
    plan(tmp_path, config)
  assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
  ("row", "words"),
  [
    ({"clip_id": "../../x", "text": "t"}, r"train9k\.jsonl, line 1: '\.\./\.\./x' is outside of"),
    ({"clip_id": "a\tb", "text": "t"}, "line 1: an id or path must be a non-empty string without control characters"),
    ({"clip_id": "x"}, r"line 1: expected an object with one of clip_id, .* and one of text, .* got"),
    ({"clip_id": "x", "text": [3]}, "line 1: a text must be a string, got the number"),
  ],
)
def test_rejects_invalid_lines(tmp_path, row, words):
  corpora.write_lines(tmp_path / "train9k.jsonl", [row])
  corpora.write_lines(tmp_path / "test1ka.jsonl", [{"clip_id": "x", "text": "t"}])
  with pytest.raises(UserError, match=words):
    plan(tmp_path)


def test_rejects_missing_files(tmp_path):
  def refused(words, config="9k"):
    with pytest.raises(UserError, match=words):
      plan(tmp_path, config)

  refused("no annotations; put MSRVTT_JSFUSION_test.csv or test1ka.jsonl or .* here, or in annotation or annot")
  write_table(tmp_path / "MSRVTT_JSFUSION_test.csv", ["video_id", "sentence"], [["video1", "t"]])
  refused("put MSRVTT_train.9k.csv or train9k.jsonl")
  write_table(tmp_path / "MSRVTT_train.9k.csv", ["video_id"], [["video0"]])
  refused("put MSRVTT_data.json or train_val_videodatainfo.json or test_videodatainfo.json")
  write_captions(tmp_path / "train_val_videodatainfo.json", {"video0": "train"})
  refused("put test_videodatainfo.json")
  kind = type(Builder.builder_configs["9k"])
  refused("videos='gone': no such folder in .*; name the folder", kind(name="mine", train="9k", videos="gone"))
  refused("train='8k' is unknown; use 9k, 7k or full", kind(name="mine", train="8k"))
