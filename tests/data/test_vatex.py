"""A miniature of VATEX: the owner's files with HGR's lists, cut clips and entire videos, ten captions per clip."""

import json

import corpora
import numpy as np
import protocols
import pytest

from clipvip_jax.configs import vatex
from clipvip_jax.data.engine.coverage import SKIPPED_FILE
from clipvip_jax.data.vatex.vatex_dataset_builder import Builder
from clipvip_jax.utils.errors import UserError

TRAIN = [f"tr_ain-{n}_000012_000022" for n in range(8)]
VAL = [f"-va_lid{n}_000000_000010" for n in range(2)]
TEST = [f"_te-st{n}_000001_00000{n + 2}" for n in range(4)]
FILES = {"training": TRAIN, "validation": [name for pair in zip(VAL, TEST, strict=False) for name in pair] + TEST[2:]}
LISTS = {"trn": TRAIN, "val": VAL, "tst": TEST}


def captions(name):
  return [f"caption {i} of {name}." for i in range(10)]


def write_owners_files(folder, files=FILES):
  for word, names in files.items():
    rows = [{"videoID": name, "enCap": captions(name), "chCap": ["说明"] * 10} for name in names]
    (folder / f"vatex_{word}_v1.0.json").write_text(json.dumps(rows))


def write_arrays(folder, lists=LISTS):
  (folder / "public_split").mkdir(exist_ok=True)
  for word, names in lists.items():
    np.save(folder / f"public_split/{word}_names.npy", np.array(names))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
  """The owner's files and HGR's lists; two test clips are in entire videos, three training clips are unusable."""
  folder = tmp_path_factory.mktemp("vatex")
  write_owners_files(folder)
  write_arrays(folder)
  for seed, name in enumerate([*TRAIN, *VAL, *TEST[:2]]):
    corpora.write_video(folder / f"videos/{name}.mp4", count=12, fps=6, seed=seed)
  for seed, name in enumerate(TEST[2:]):
    corpora.write_video(folder / f"videos/{name.rsplit('_', 2)[0]}.mp4", count=40, fps=6, seed=20 + seed)
  videos = [folder / f"videos/{name}.mp4" for name in TRAIN]
  videos[5].unlink()
  videos[6].write_bytes(b"")
  videos[7].write_bytes(videos[7].read_bytes()[:-300])
  return folder


@pytest.fixture(scope="module")
def built(source):
  return corpora.build(Builder, "default", source / "corpora", source, max_skipped=0.5)


def test_records_have_all_english_captions(built):
  for split, names in (("train", TRAIN[:5]), ("validation", VAL), ("test", TEST)):
    records = corpora.read_back(built, split)
    assert {record["id"]: record["description"] for record in records} == {name: captions(name) for name in names}
  # Three a second of two seconds; of entire videos, seconds 1 to 4 and 1 to 5.
  assert [record["num_frames"] for record in corpora.read_back(built, "test")] == [6, 6, 9, 12]


def test_skipped_clips_are_counted_and_listed(built):
  counts = built.info.metadata["coverage"]["train"]
  assert [counts[key] for key in ("expected", "found", "missing", "undecodable")] == [8, 5, 1, 2]
  rows = [line.split("\t") for line in (built.data_path / SKIPPED_FILE).read_text().splitlines()]
  assert rows[0][1:3] == ["missing", TRAIN[5]] and rows[0][3].endswith(f"videos/{TRAIN[5]}.mp4: no such file")


def test_every_caption_is_a_query_and_groups_are_ranked(built):
  directions = ("text_to_video", "video_to_text", "video_to_text_grouped")
  protocols.check_evaluation(built, {"test": {name: captions(name) for name in TEST}}, directions)


@pytest.mark.slow
@pytest.mark.unoptimized
def test_trains_two_steps(built, tmp_path):
  results = corpora.train_two_steps(built, tmp_path / "run", corpora.small(vatex.get_config()))
  test = results["splits"]["test"]
  assert (results["step"], test["size"], test["queries"]) == (2, 4, 40)
  assert set(test["plain"]) == {"text_to_video", "video_to_text", "video_to_text_grouped"}


def plan(folder, **options):
  return corpora.planned(Builder, "default", folder, **options)


def described(plan):
  return {split: {item.id: list(item.descriptions) for item in items} for split, items in plan.items()}


EXPECTED = {
  split: {name: captions(name) for name in names}
  for split, names in (("train", TRAIN), ("validation", VAL), ("test", TEST))
}


def test_reads_all_forms_of_captions_and_lists(tmp_path):
  """Those of HGR, CLIP2Video and TS2-Net; without a training list, all of the owner's training clips are used."""
  write_owners_files(tmp_path)
  write_arrays(tmp_path, {"val": VAL, "tst": TEST})
  assert described(plan(tmp_path)) == EXPECTED
  for word in FILES:
    (tmp_path / f"vatex_{word}_v1.0.json").unlink()
  for word in ("val", "tst"):
    (tmp_path / f"public_split/{word}_names.npy").unlink()
  for word, names in zip(("train", "val", "test"), LISTS.values(), strict=True):
    (tmp_path / f"{word}_list.txt").write_text("\n".join(names))
  names = [*TRAIN, *VAL, *TEST]
  hgr = {name: captions(name) for name in names}
  clip2video = {name: {"enCap": texts, "chCap": []} for name, texts in hgr.items()}
  (tmp_path / "annotation/RET").mkdir(parents=True)
  for path, content in (("annotation/RET/ref_captions.json", hgr), ("vatex_data.json", clip2video)):
    (tmp_path / path).write_text(json.dumps(content))
    assert described(plan(tmp_path)) == EXPECTED
    (tmp_path / path).unlink()


def test_finds_clips_before_entire_videos(tmp_path):
  write_owners_files(tmp_path)
  write_arrays(tmp_path)
  stored = ("train_video/tr_ain-0_000012_000022.webm", "videos/tr_ain-0.mp4", "videos/tr_ain-1.mkv")
  for name in stored:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
  found = [(item.video.removeprefix(f"{tmp_path}/"), item.start, item.end) for item in plan(tmp_path)["train"][:3]]
  assert found == [
    (stored[1], 12, 22),  # the first folder
    (stored[2], 12, 22),
    (f"videos/{TRAIN[2]}.mp4", None, None),
  ]


def test_refuses_other_sizes_than_the_official_ones(source):
  words = (
    r"\(train has 8 clips, officially 25991; validation has 2 clips, officially 1500; test has 4 clips, officially 1500"
  )
  with pytest.raises(
    UserError, match=words + r"\)\. Use .* 1,500 test clips, or accept these with --check_sizes=false$"
  ):
    plan(source, check_sizes=True)


@pytest.mark.slow
def test_checks_official_sizes(tmp_path):
  names = [f"v{n}_000000_000010" for n in range(25_991 + 3000)]
  (tmp_path / "ref_captions.json").write_text(json.dumps({name: ["t"] for name in names}))
  lists = {"trn": names[:25_991], "val": names[25_991:-1500], "tst": names[-1500:]}
  write_arrays(tmp_path, lists)
  found = plan(tmp_path, check_sizes=True)
  assert {split: len(items) for split, items in found.items()} == {"train": 25_991, "validation": 1500, "test": 1500}
  write_arrays(tmp_path, {"val": names[-3000:], "tst": names[-1500:]})
  words = r"validation has 3000 clips, officially 1500\). Use the original files with HGR's lists "
  with pytest.raises(UserError, match=words + r".*--check_sizes=false$"):
    plan(tmp_path, check_sizes=True)


@pytest.mark.parametrize(
  ("content", "words"),
  [
    (
      '[{"videoID": "a", "chCap": []}]',
      r"entry 1: expected an object with one of videoID and one of enCap",
    ),
    ('[{"videoID": "../a", "enCap": ["t"]}]', r"entry 1: '\.\./a' is outside of"),
    ('[{"videoID": "a", "enCap": [3]}]', "entry 1: a text must be a string, got the number 3"),
    ('{"a": "text"}', "'a': expected an object"),
    ("7", "expected a list of clips"),
    ("[", "cannot be read as JSON"),
  ],
)
def test_rejects_invalid_captions(tmp_path, content, words):
  write_owners_files(tmp_path)
  write_arrays(tmp_path)
  (tmp_path / "vatex_training_v1.0.json").write_text(content)
  with pytest.raises(UserError, match=words) as refused:
    plan(tmp_path)
  assert "\n" not in str(refused.value)


def test_rejects_missing_files(tmp_path):
  def refused(words):
    with pytest.raises(UserError, match=words):
      plan(tmp_path)

  refused(r"put vatex_training_v1\.0\.json or vatex_data\.json or ref_captions\.json or RET/ref_captions\.json here")
  write_owners_files(tmp_path, {"training": TRAIN})
  refused(r"put vatex_validation_v1\.0\.json here")
  write_owners_files(tmp_path)
  refused(r"put public_split/val_names\.npy or val_names\.npy or val_list\.txt here")
