"""A miniature of DiDeMo: sentences are joined into paragraphs, videos are found with any extension."""

import json

import corpora
import pytest

from clipvip_jax.data.didemo.didemo_dataset_builder import Builder, DidemoConfig
from clipvip_jax.data.engine.coverage import SKIPPED_FILE
from clipvip_jax.utils.errors import UserError

# As the annotations name them -> as they lie on the disk; None: there is no such file.
TRAIN = {
  "11@N00_1_a.mov": "11@N00_1_a.mov",
  "11@N00_2_b.avi": "11@N00_2_b.mp4",
  "11@N00_3_c.3gp": "11@N00_3_c",
  "11@N00_4_d.mpg": "11@N00_4_d.mpg.mp4",
  "11@N00_5_e.m4v": "11@N00_5_e.MOV",
  "11@N00_6_f.mov": None,
  "11@N00_7_g.mov": "11@N00_7_g.mp4",  # empty
  "11@N00_8_h.mov": "11@N00_8_h.mp4",  # cut
}
TEST = {f"12@N01_{n}.avi": f"12@N01_{n}.mp4" for n in range(3)}
VAL = {"13@N02_1.avi": "13@N02_1.avi", "13@N02_2": "13@N02_2.mp4"}
IDS = [name.rpartition(".")[0] for name in TRAIN]


def write_annotations(folder, split, names):
  """Two sentences of each video, interleaved."""
  rows = [
    {"annotation_id": i, "video": name, "description": f" {word} {i}.", "num_segments": 6, "times": [[0, 0]]}
    for word in ("first", "second")
    for i, name in enumerate(names)
  ]
  (folder / f"{split}_data.json").write_text(json.dumps(rows))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
  """The owner's files; one video is 40 seconds long. test_list.txt omits a video of the owner's file."""
  folder = tmp_path_factory.mktemp("didemo")
  for split, names in (("train", TRAIN), ("val", VAL), ("test", [*TEST, "14@N03_9.avi"])):
    write_annotations(folder, split, names)
  (folder / "test_list.txt").write_text("".join(f"{name}\n" for name in TEST))
  for seed, name in enumerate([*TRAIN.values(), *VAL.values(), *TEST.values()]):
    if name:
      count, fps = (10, 5) if seed else (40, 1)
      corpora.write_video(folder / "videos/made.mp4", count, fps, seed).rename(folder / "videos" / name)
  (folder / "videos/11@N00_7_g.mp4").write_bytes(b"")
  cut = folder / "videos/11@N00_8_h.mp4"
  cut.write_bytes(cut.read_bytes()[:-300])
  return folder


@pytest.fixture(scope="module")
def built(source):
  return corpora.build(Builder, "default", source / "corpora", source, max_skipped=0.5)


def test_records_have_paragraphs_and_frames(built):
  records = {record["id"]: record for record in corpora.read_back(built, "train")}
  assert {name: record["description"] for name, record in records.items()} == {
    name: [f"first {i}. second {i}."] for i, name in enumerate(IDS[:5])
  }
  assert [record["num_frames"] for record in records.values()] == [120, *[6] * 4]  # forty seconds; two seconds
  assert [record["id"] for record in corpora.read_back(built, "validation")] == ["13@N02_1", "13@N02_2"]
  assert [record["id"] for record in corpora.read_back(built, "test")] == ["12@N01_0", "12@N01_1", "12@N01_2"]


def test_skipped_clips_are_counted_and_listed(built):
  counts = built.info.metadata["coverage"]
  assert [counts["train"][key] for key in ("expected", "found", "missing", "undecodable")] == [8, 5, 1, 2]
  assert counts["test"]["expected"] == 3
  rows = [line.split("\t") for line in (built.data_path / SKIPPED_FILE).read_text().splitlines()]
  assert [row[1:3] for row in rows] == [["missing", IDS[5]], ["undecodable", IDS[6]], ["undecodable", IDS[7]]]
  assert rows[0][3].endswith("videos/11@N00_6_f.mov: no such file")


@pytest.mark.slow
@pytest.mark.unoptimized
def test_trains_two_steps(built, tmp_path):
  fields = {"loss": "vs", "data.subtitle": "description", "evaluate.selection_split": "validation"}
  results = corpora.train_two_steps(built, tmp_path / "run", **fields, **{"evaluate.final_splits": ("test",)})
  assert results["step"] == 2 and results["splits"]["test"]["size"] == 3


def plan(folder, config="default", **options):
  return corpora.planned(Builder, config, folder, **options)


def test_reads_json_lines_and_lists(source, tmp_path):
  """Files of CLIP-ViP's and VindLU's authors; sentences may be joined already."""
  (tmp_path / "DiDeMo_Videos").symlink_to(source / "videos")
  texts = {name: ["One.", "Two."] for name in TRAIN}
  corpora.write_lines(tmp_path / "train.jsonl", [{"clip_id": f"x/{v[:-4]}", "text": texts[v]} for v in TRAIN])
  corpora.write_lines(tmp_path / "val.jsonl", [{"clip_id": v, "text": "One. Two."} for v in VAL])
  (tmp_path / "didemo_ret_test.json").write_text(json.dumps([{"video": v, "caption": ["One."]} for v in TEST]))
  found = plan(tmp_path)
  assert [item.id for item in found["train"]] == IDS
  assert {item.descriptions for item in found["train"] + found["validation"]} == {("One. Two.",)}
  assert [item.video for item in found["test"]] == [str(tmp_path / f"DiDeMo_Videos/{v}") for v in TEST.values()]
  assert {item.end for item in found["test"]} == {None}
  assert {item.end for item in plan(tmp_path, DidemoConfig(name="cut", seconds=30))["test"]} == {30}


def test_listed_videos_without_annotations_are_counted(source, tmp_path):
  (tmp_path / "videos").symlink_to(source / "videos")
  for split, names in (("train", TRAIN), ("val", VAL), ("test", TEST)):
    write_annotations(tmp_path, split, names)
  (tmp_path / "test_list.txt").write_text("".join(f"{name}\n" for name in [*TEST, "nobody@N00_1.avi"]))
  assert [item.descriptions for item in plan(tmp_path)["test"]][-1] == ()
  builder = corpora.build(Builder, "default", tmp_path / "corpora", tmp_path, max_skipped=0.5)
  counts = builder.info.metadata["coverage"]["test"]
  assert (counts["expected"], counts["found"], counts["without_text"]) == (len(TEST) + 1, len(TEST), 1)


def test_checks_official_size(tmp_path):
  names = [f"{n}.mp4" for n in range(1037)]
  for split in ("train", "val", "test"):
    write_annotations(tmp_path, split, names)
  with pytest.raises(
    UserError, match=r"test has 1037 clips, officially 1004.* reported on, or accept .*--check_sizes=false"
  ):
    plan(tmp_path, check_sizes=True)
  (tmp_path / "test_list.txt").write_text("\n".join(names[:1004]))
  assert len(plan(tmp_path, check_sizes=True)["test"]) == 1004


def test_rejects_missing_and_invalid_files(tmp_path):
  def refused(words):
    with pytest.raises(UserError, match=words):
      plan(tmp_path)

  for split in ("val", "test"):
    write_annotations(tmp_path, split, TEST)
  refused("no annotations; put train_data.json or train.jsonl or didemo_ret_train.json here")
  train = tmp_path / "train_data.json"
  train.write_text('[{"video": "a.mp4", "description": "t"}, {"video": "../b.mp4", "description": "t"}]')
  refused(r"train_data\.json, entry 2: '\.\./b\.mp4' is outside of")
  train.write_text('[{"video": "a.mp4"}]')
  refused("train_data.json, entry 1: expected an object with one of clip_id")
  train.write_text('"all"')
  refused("train_data.json: expected a list of clips")
