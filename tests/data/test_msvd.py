"""A miniature of MSVD: captions in a pickle, lists of splits, .avi files, several captions per video."""

import json
import pickle

import corpora
import protocols
import pytest
from retrieval_oracle import slow_directions

from clipvip_jax import evaluate
from clipvip_jax.configs import msvd
from clipvip_jax.data.engine.coverage import SKIPPED_FILE
from clipvip_jax.data.msvd.msvd_dataset_builder import Builder
from clipvip_jax.evaluation import split_embeddings
from clipvip_jax.utils.errors import UserError

TRAIN = [f"-tr_ain{n}_5_1{n}" for n in range(8)]
VAL, TEST = ["va-lid_0_9"], [f"te.st{n}_120_130" for n in range(4)]
LISTS = {"train": TRAIN, "val": VAL, "test": TEST}
MULTI = ("text_to_video", "video_to_text", "video_to_text_grouped")


def captions(name):
  """As many as the name is long, up to six."""
  return [f"caption {i} of {name} , isn't it" for i in range(2 + sum(name.encode()) % 5)]


def write_lists(folder, lists=LISTS):
  for word, names in lists.items():
    (folder / f"{word}_list.txt").write_text("".join(f"{name}\n" for name in names))


def write_pickle(folder, names):
  content = {name: [text.split() for text in captions(name)] for name in names}
  (folder / "raw-captions.pkl").write_bytes(pickle.dumps(content))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
  """CLIP4Clip's files; a video is missing, one is empty, one is cut, and one was never described."""
  folder = tmp_path_factory.mktemp("msvd")
  names = [*TRAIN, *VAL, *TEST]
  write_lists(folder, {**LISTS, "train": [*TRAIN, "undescribed_1_2"]})
  write_pickle(folder, [*names, "not_listed_1_2"])
  (folder / "MSVD_Videos").mkdir()
  for seed, name in enumerate(names):
    corpora.encode(folder / f"MSVD_Videos/{name}.avi", corpora.moving_frames(12, seed), "mpeg4", rate=12)
  videos = [folder / f"MSVD_Videos/{name}.avi" for name in TRAIN]
  videos[5].unlink()
  videos[6].write_bytes(b"")
  videos[7].write_bytes(videos[7].read_bytes()[:200])
  return folder


@pytest.fixture(scope="module")
def built(source):
  return corpora.build(Builder, "default", source / "corpora", source, max_skipped=0.5)


def test_records_have_all_captions(built):
  for split, names in (("train", TRAIN[:5]), ("validation", VAL), ("test", TEST)):
    records = corpora.read_back(built, split)
    assert {record["id"]: record["description"] for record in records} == {name: captions(name) for name in names}
    assert {record["num_frames"] for record in records} == {6}  # six a second of twelve


def test_skipped_clips_are_counted_and_listed(built):
  counts = built.info.metadata["coverage"]["train"]
  keys = ("expected", "found", "missing", "undecodable", "without_text")
  assert [counts[key] for key in keys] == [9, 5, 1, 2, 1]
  rows = [line.split("\t") for line in (built.data_path / SKIPPED_FILE).read_text().splitlines()]
  assert rows[0][1:3] == ["missing", TRAIN[5]] and rows[0][3].endswith(f"MSVD_Videos/{TRAIN[5]}.avi: no such file")


def test_every_caption_is_a_query_and_groups_are_ranked(built):
  protocols.check_evaluation(built, {"test": {name: captions(name) for name in TEST}}, MULTI)


@pytest.mark.slow
@pytest.mark.unoptimized
def test_trains_two_steps_and_evaluates_by_the_protocol(built, tmp_path):
  results = corpora.train_two_steps(built, tmp_path / "run", corpora.small(msvd.get_config()))
  assert results["step"] == 2 and results["config"]["evaluate"]["protocol"] == "multi"
  evaluate.main([f"--model={tmp_path / 'run'}", "--dataset=msvd", f"--workdir={tmp_path / 'again'}", "--num_workers=0"])
  again = json.loads((tmp_path / "again/results.json").read_text())["splits"]["test"]
  embeddings = split_embeddings.read_embeddings(tmp_path / "again" / split_embeddings.file_name("test"))
  expected = slow_directions(embeddings.similarity().tolist(), embeddings.labels)
  assert embeddings.texts == [text for name in TEST for text in captions(name)] and set(expected) == set(MULTI)
  for metrics in (results["splits"]["test"], again):
    found = {direction: {key: row[key] for key in expected[direction]} for direction, row in metrics["plain"].items()}
    assert found == expected


def plan(folder, **options):
  return corpora.planned(Builder, "default", folder, **options)


def described(items):
  return {item.id: list(item.descriptions) for item in items}


def test_reads_the_owners_descriptions_and_numbered_videos(tmp_path):
  lines = [f"{name} {text}" for text_number in range(6) for name in (*TRAIN, *VAL, *TEST)
           for text in captions(name)[text_number : text_number + 1]]  # fmt: skip
  (tmp_path / "AllVideoDescriptions.txt").write_text("# Microsoft Research\n\n" + "\n".join(lines) + "\n")
  write_lists(tmp_path)
  (tmp_path / "youtube_mapping.txt").write_text("".join(f"{name} vid{n}\n" for n, name in enumerate(TEST, 1)))
  (tmp_path / "YouTubeClips").mkdir()
  for name in ("vid1.avi", "vid2.mp4", f"{TEST[2]}.avi"):
    (tmp_path / "YouTubeClips" / name).touch()
  found = plan(tmp_path)
  assert described(found["train"]) == {name: captions(name) for name in TRAIN}
  videos = [item.video.removeprefix(f"{tmp_path}/YouTubeClips/") for item in found["test"]]
  assert videos == ["vid1.avi", "vid2.mp4", f"{TEST[2]}.avi", f"{TEST[3]}.avi"]
  (tmp_path / "youtube_mapping.txt").write_text("vid1\n")
  with pytest.raises(UserError, match=r'youtube_mapping\.txt, line 1: expected "ID vidN", got "vid1"'):
    plan(tmp_path)


def test_reads_json_of_each_split(tmp_path):
  """Files of VindLU's and InternVideo's authors."""
  for word, names in LISTS.items():
    rows = [{"video": f"{name}.avi", "caption": captions(name)} for name in names]
    (tmp_path / f"msvd_ret_{word}.json").write_text(json.dumps(rows))
  found = plan(tmp_path)
  assert {split: described(items) for split, items in found.items()} == {
    split: {name: captions(name) for name in names}
    for split, names in (("train", TRAIN), ("validation", VAL), ("test", TEST))
  }


def test_checks_official_sizes(tmp_path):
  names = [f"video{n}" for n in range(1970)]
  write_pickle(tmp_path, names)
  write_lists(tmp_path, {"train": names[:1200], "val": names[1200:1300], "test": names[1300:]})
  found = plan(tmp_path, check_sizes=True)
  assert {split: len(items) for split, items in found.items()} == {"train": 1200, "validation": 100, "test": 670}
  write_lists(tmp_path, {"test": names[1301:]})
  with pytest.raises(UserError, match=r"test has 669 clips, officially 670.*--check_sizes=false$"):
    plan(tmp_path, check_sizes=True)


@pytest.mark.parametrize(
  ("content", "words"),
  [
    (["a"], r'raw-captions\.pkl: expected \{ID: \[\[WORD, \.\.\.\], \.\.\.\]\}, got \["a"\]'),
    ({"a": "one text"}, r"'a': expected captions as lists of words, got \"one text\""),
    ({"a": [["one", 2]]}, "'a': expected captions as lists of words"),
    ({"../x": [["one"]]}, r"'\.\./x' is outside of"),
    ({"a": {"b": print}}, "contains the opcode STACK_GLOBAL builtins.print"),
  ],
)
def test_rejects_invalid_captions(tmp_path, content, words):
  write_lists(tmp_path)
  (tmp_path / "raw-captions.pkl").write_bytes(pickle.dumps(content))
  with pytest.raises(UserError, match=words) as refused:
    plan(tmp_path)
  assert "\n" not in str(refused.value)


def test_rejects_missing_files(tmp_path):
  with pytest.raises(UserError, match=r"put msvd_ret_train\.json or train\.jsonl or raw-captions\.pkl or AllVideo"):
    plan(tmp_path)
  write_pickle(tmp_path, TRAIN)
  write_lists(tmp_path, {"train": TRAIN})
  with pytest.raises(UserError, match=r"put val_list\.txt here"):
    plan(tmp_path)
