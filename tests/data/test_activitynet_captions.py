"""A miniature of ActivityNet Captions: paragraphs, videos with and without v_, folders of frames."""

import json

import corpora
import numpy as np
import pytest

from clipvip_jax.data.activitynet_captions.activitynet_captions_dataset_builder import Builder
from clipvip_jax.data.engine.coverage import SKIPPED_FILE
from clipvip_jax.data.engine.records import encode_jpeg
from clipvip_jax.utils.errors import UserError

TRAIN = [f"v_{name}" for name in ("QOlSCBRmfWY", "ehGHCYKzyZ8", "-a_b", "v_v1", "nwznKOuZM7w", "gone", "empty", "cut")]
VAL = ["v_uqiMw7tQ1Cc", "v_bXdq2zI1Ms0", "v_FsS_NCZEfaI"]


def annotations(names):
  return {
    name: {"duration": 82.73, "timestamps": [[0.83, 19.86], [17.37, 60.81]], "sentences": [f" He, {name}. ", "\nShe."]}
    for name in names
  }


def write_annotations(folder, train, validation):
  (folder / "train.json").write_text(json.dumps(annotations(train)))
  (folder / "val_1.json").write_text(json.dumps(annotations(validation)))


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
  """The owner's files with ten-second videos, three of which are missing or corrupt."""
  folder = tmp_path_factory.mktemp("anet")
  write_annotations(folder, TRAIN, VAL)
  names = [f"{TRAIN[0]}.mp4", "ehGHCYKzyZ8.mp4", "v_-a_b.mkv", "v_v1.webm", f"{TRAIN[4]}.avi", "v_empty.mp4", "cut.mp4"]
  for seed, name in enumerate([*names, *(f"{name}.mp4" for name in VAL)]):
    made = corpora.write_video(folder / "videos/made.mp4", count=20, fps=2, seed=seed)
    made.rename(folder / "videos" / name)
  (folder / "videos/v_empty.mp4").write_bytes(b"")
  cut = folder / "videos/cut.mp4"
  cut.write_bytes(cut.read_bytes()[:-300])
  return folder


@pytest.fixture(scope="module")
def built(videos):
  return corpora.build(Builder, "default", videos / "corpora", videos, max_skipped=0.5)


def test_records_have_paragraphs_and_frames(built):
  for split, names in (("train", TRAIN[:5]), ("validation", VAL)):
    records = {record["id"]: record for record in corpora.read_back(built, split)}
    assert {name: record["description"] for name, record in records.items()} == {
      name: [f"He, {name}. She."] for name in names
    }
    assert {record["num_frames"] for record in records.values()} == {10}  # one a second


def test_skipped_clips_are_counted_and_listed(built):
  counts = built.info.metadata["coverage"]
  assert [counts["train"][key] for key in ("expected", "found", "missing", "undecodable")] == [8, 5, 1, 2]
  assert counts["validation"]["found"] == 3
  rows = [line.split("\t") for line in (built.data_path / SKIPPED_FILE).read_text().splitlines()]
  assert [row[1:3] for row in rows] == [["missing", "v_gone"], ["undecodable", "v_empty"], ["undecodable", "v_cut"]]
  assert rows[0][3].endswith("videos/v_gone.mp4: no such file")


@pytest.mark.slow
@pytest.mark.unoptimized
def test_trains_two_steps(built, tmp_path):
  fields = {"loss": "vs", "data.subtitle": "description", "evaluate.selection_split": "validation"}
  results = corpora.train_two_steps(built, tmp_path / "run", **fields, **{"evaluate.final_splits": ("validation",)})
  assert results["step"] == 2 and results["splits"]["validation"]["size"] == 3


def test_reads_folders_of_frames(tmp_path):
  """Layout of CLIP-ViP's authors: every frame is stored, byte-identical."""
  frames = [encode_jpeg(frame, 90) for frame in corpora.moving_frames(12)]
  for name in (TRAIN[0], VAL[0]):
    folder = tmp_path / "video_frames_lr" / name
    folder.mkdir(parents=True)
    for i, frame in enumerate(frames):
      (folder / f"{name}_{i:03d}.jpg").write_bytes(frame)
  (tmp_path / "video_frames_lr" / TRAIN[1]).mkdir()
  rows = [{"clip_id": name, "text": ["He.", "She."], "num_frame": 12} for name in TRAIN[:2]]
  corpora.write_lines(tmp_path / "train.jsonl", rows)
  corpora.write_lines(tmp_path / "val1.jsonl", [{"clip_id": VAL[0], "text": "He. She.", "num_frame": 12}])
  builder = corpora.build(Builder, "default", tmp_path / "corpora", tmp_path, max_skipped=0.5)
  for split, name in (("train", TRAIN[0]), ("validation", VAL[0])):
    [record] = corpora.read_back(builder, split)
    assert (record["id"], record["description"]) == (name, ["He. She."])
    assert np.array_equal(record["frames"], frames)
  assert builder.info.metadata["coverage"]["train"]["undecodable"] == 1


def plan(folder, **options):
  return corpora.planned(Builder, "default", folder, **options)


def test_checks_official_size(tmp_path):
  names = [f"v_{n}" for n in range(4917)]
  write_annotations(tmp_path, TRAIN, names)
  assert len(plan(tmp_path, check_sizes=True)["validation"]) == 4917
  write_annotations(tmp_path, TRAIN, names[1:])
  with pytest.raises(UserError, match=r"validation has 4916 clips, officially 4917.*--check_sizes=false"):
    plan(tmp_path, check_sizes=True)


@pytest.mark.parametrize(
  ("whole", "words"),
  [
    ('{"v_a": ', r"train\.json: cannot be read as JSON"),
    ({"v_a": 7}, "train.json, 'v_a': expected an object with one of clip_id"),
    ({"v_a": {"duration": 3}}, "train.json, 'v_a': expected an object with one of clip_id"),
    ({"v_a": {"sentences": ["x", None]}}, "train.json, 'v_a': a text must be a string, got null"),
    ({"../v_a": {"sentences": ["x"]}}, r"'\.\./v_a' is outside of"),
    (None, "no annotations; put train.json or train.jsonl or anet_ret_train.json here"),
  ],
)
def test_rejects_invalid_annotations(tmp_path, whole, words):
  write_annotations(tmp_path, TRAIN, VAL)
  (tmp_path / "train.json").unlink()
  if whole is not None:
    (tmp_path / "train.json").write_text(whole if isinstance(whole, str) else json.dumps(whole))
  with pytest.raises(UserError, match=words):
    plan(tmp_path)
