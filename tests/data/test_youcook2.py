"""A miniature of YouCook2: segments of uncut videos in the owner's folders, MIL-NCE's list of validation segments."""

import csv
import json

import corpora
import protocols
import pytest

from clipvip_jax.configs import youcook2
from clipvip_jax.data.engine.coverage import SKIPPED_FILE
from clipvip_jax.data.youcook2.youcook2_dataset_builder import Builder, Youcook2Config
from clipvip_jax.utils.errors import UserError

# Video -> (subset, recipe, segments). All videos have eight seconds.
VIDEOS = {
  "-tr_ain0": ("training", "113", [(0, 2), (2, 3), (5, 8)]),
  "-tr_ain1": ("training", "401", [(1, 4), (6, 8)]),
  "missing": ("training", "401", [(0, 4)]),
  "cut": ("training", "113", [(0, 2), (4, 8)]),
  "_va-lid0": ("validation", "105", [(0, 2), (1, 3), (4, 7)]),
  "_va-lid1": ("validation", "226", [(3, 5)]),
  "known": ("validation", "226", [(0, 1)]),  # of HowTo100M
}
VALIDATION = ["_va-lid1", "_va-lid0"]


def sentence(name, number):
  return f"step {number} of {name}, stir"


def ids(*names):
  return [f"{name}_{number}" for name in names for number in range(len(VIDEOS[name][2]))]


def texts(*names):
  return {f"{name}_{n}": [sentence(name, n)] for name in names for n in range(len(VIDEOS[name][2]))}


def write_annotations(folder, videos=VIDEOS):
  database = {
    name: {
      "duration": 8.0,
      "subset": subset,
      "recipe_type": recipe,
      "video_url": f"https://www.youtube.com/watch?v={name}",
      "annotations": [
        {"segment": list(times), "id": n, "sentence": sentence(name, n)} for n, times in enumerate(segments)
      ],
    }
    for name, (subset, recipe, segments) in videos.items()
  }
  (folder / "youcookii_annotations_trainval.json").write_text(json.dumps({"database": database}))


def write_reported(folder, names=VALIDATION, videos=VIDEOS):
  rows = [
    (end, start, videos[name][1], sentence(name, n), name)
    for name in names
    for n, (start, end) in enumerate(videos[name][2])
  ]
  with (folder / "validation_youcook.csv").open("w", newline="") as file:
    csv.writer(file).writerows([("end", "start", "task", "text", "video_id"), *rows])


@pytest.fixture(scope="module")
def source(tmp_path_factory):
  folder = tmp_path_factory.mktemp("youcook2")
  write_annotations(folder)
  write_reported(folder)
  for seed, (name, (subset, recipe, _)) in enumerate(VIDEOS.items()):
    if name != "missing":
      corpora.write_video(folder / f"raw_videos/{subset}/{recipe}/{name}.mp4", count=48, fps=6, seed=seed)
  (folder / "raw_videos/training/401/-tr_ain1.mp4").rename(folder / "raw_videos/training/401/-tr_ain1.mkv")
  cut = folder / "raw_videos/training/113/cut.mp4"
  cut.write_bytes(cut.read_bytes()[:-300])
  return folder


@pytest.fixture(scope="module")
def built(source):
  return corpora.build(Builder, "default", source / "corpora", source, max_skipped=0.5)


def test_records_are_segments_with_one_sentence(built):
  train = corpora.read_back(built, "train")
  assert {record["id"]: record["description"] for record in train} == texts("-tr_ain0", "-tr_ain1")
  assert [record["num_frames"] for record in train] == [6, 3, 9, 9, 6]  # three a second
  assert [record["id"] for record in corpora.read_back(built, "validation")] == ids(*VALIDATION)


def test_skipped_clips_are_counted_and_listed(built):
  counts = built.info.metadata["coverage"]["train"]
  assert [counts[key] for key in ("expected", "found", "missing", "undecodable")] == [8, 5, 1, 2]
  rows = [line.split("\t") for line in (built.data_path / SKIPPED_FILE).read_text().splitlines()]
  assert [row[2] for row in rows] == ["missing_0", "cut_0", "cut_1"]
  assert rows[0][3].endswith("raw_videos/training/401/missing.mp4: no such file")


def test_every_sentence_is_a_query(built):
  protocols.check_evaluation(built, {"validation": texts(*VALIDATION)}, ("text_to_video", "video_to_text"))


@pytest.mark.slow
@pytest.mark.unoptimized
def test_trains_two_steps(built, tmp_path):
  results = corpora.train_two_steps(built, tmp_path / "run", corpora.small(youcook2.get_config()))
  validation = results["splits"]["validation"]
  assert (results["step"], validation["size"], validation["queries"]) == (2, 4, 4)
  assert set(validation["plain"]) == {"text_to_video", "video_to_text"}


def plan(folder, config="default", **options):
  return corpora.planned(Builder, config, folder, **options)


def test_full_has_the_owners_validation_split(source):
  found = plan(source, "full")
  assert [item.id for item in found["train"]] == ids("-tr_ain0", "-tr_ain1", "missing", "cut")
  assert {item.id: list(item.descriptions) for item in found["validation"]} == texts("_va-lid0", "_va-lid1", "known")
  first, *_ = found["validation"]
  assert (first.start or 0, first.end) == (0, 2) and first.video.endswith("raw_videos/validation/105/_va-lid0.mp4")
  assert {item.id: item for item in found["validation"]}.items() >= {
    item.id: item for item in plan(source)["validation"]
  }.items()


@pytest.mark.parametrize(
  "stored",
  [
    "validation/226/_va-lid1.webm",
    "validation/226/_va-lid1/_va-lid1.mkv",
    "videos/226/_va-lid1.mp4",
    "videos/_va-lid1.mp4",
    "_va-lid1.mp4",
  ],
)
def test_finds_videos_in_all_layouts(tmp_path, stored):
  write_annotations(tmp_path)
  write_reported(tmp_path)
  (tmp_path / stored).parent.mkdir(parents=True, exist_ok=True)
  (tmp_path / stored).touch()
  assert plan(tmp_path)["validation"][0].video == str(tmp_path / stored)


def test_refuses_other_sizes_than_the_official_ones(source):
  for config, words in (
    ("default", "validation has 4 clips, officially 3350"),
    ("full", "validation has 5 clips, officially 3492"),
  ):
    words = rf"\(train has 8 clips, officially 10337; {words}\)\. Use .*youcook\.csv, or accept these with"
    with pytest.raises(UserError, match=words):
      plan(source, config, check_sizes=True)


@pytest.mark.slow
def test_checks_official_sizes(tmp_path):
  steps = [(n, n + 1) for n in range(20)]
  videos = {f"t{n}": ("training", "1", steps if n else steps[:17]) for n in range(517)}
  videos |= {f"v{n}": ("validation", "1", steps[:10] if n else steps[:2]) for n in range(350)}
  write_annotations(tmp_path, videos)
  reported = [f"v{n}" for n in range(1, 336)]
  write_reported(tmp_path, reported, videos)
  for config, size in (("default", 3350), ("full", 3492)):
    found = plan(tmp_path, config, check_sizes=True)
    assert {split: len(items) for split, items in found.items()} == {"train": 10_337, "validation": size}
  write_reported(tmp_path, reported[1:], videos)
  with pytest.raises(UserError, match=r"validation has 3340 clips, officially 3350.*--check_sizes=false$"):
    plan(tmp_path, check_sizes=True)


GOOD = {"subset": "training", "recipe_type": "1", "annotations": [{"segment": [0, 2], "sentence": "stir"}]}


def annotated(**changes):
  return {"database": {"a": {**GOOD, "annotations": [{**GOOD["annotations"][0], **changes}]}}}


@pytest.mark.parametrize(
  ("content", "words"),
  [
    ("{", "trainval.json: cannot be read as JSON"),
    ([], r'trainval\.json: expected \{"database": \{VIDEO: \.\.\.\}\} as in the original file, got \[\]'),
    ({"database": {"a": []}}, r"'a': expected .*\"annotations\""),
    (
      {"database": {"a": {**GOOD, "subset": "testing"}}},
      '\'a\': "subset" must be training or validation, got "testing"',
    ),
    ({"database": {"../a": GOOD}}, r"annotation 0: '\.\./a' is outside of"),
    ({"database": {"a": {**GOOD, "recipe_type": "../.."}}}, r"annotation 0, type of recipe: '\.\./\.\.' is outside of"),
    (annotated(segment=[1]), r"'a', annotation 0: expected .*\"segment\": \[START, END\]"),
    (annotated(segment=[None, 2]), r"'a', annotation 0: expected .*, got .*null, 2"),
    (annotated(segment=[1, "2"]), "end must be seconds from 0 to 1e.08, got the string"),
    (annotated(segment=[2, 2]), "annotation 0: end=2 must be greater than start=2"),
    (annotated(segment=[-1, 2]), "annotation 0: start must be seconds"),
    (annotated(sentence=None), "annotation 0: a text must be a string, got null"),
  ],
)
def test_rejects_invalid_annotations(tmp_path, content, words):
  path = tmp_path / "youcookii_annotations_trainval.json"
  path.write_text(content if isinstance(content, str) else json.dumps(content))
  with pytest.raises(UserError, match=words) as refused:
    plan(tmp_path, Youcook2Config(name="mine", reported=False, splits=("train",)))
  assert "\n" not in str(refused.value)


def test_rejects_missing_and_invalid_lists(tmp_path):
  def refused(words):
    with pytest.raises(UserError, match=words):
      plan(tmp_path)

  refused(r"put youcookii_annotations_trainval\.json here")
  write_annotations(tmp_path)
  refused(r"put validation_youcook\.csv here")
  header = "end,start,task,text,video_id\n"
  for line, words in (
    ("2,x,1,t,a", "line 2: start and end must be seconds .*; correct them"),
    ("2,nan,1,t,a", "line 2: start must be seconds"),
    ("2,1,1,t,../a", r"line 2: '\.\./a' is outside of"),
  ):
    (tmp_path / "validation_youcook.csv").write_text(header + line)
    refused(words)
