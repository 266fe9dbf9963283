"""A miniature of WebVid: the owner's tables with videos in their folders."""

import csv

import corpora
import pytest

from clipvip_jax.data.engine.coverage import SKIPPED_FILE
from clipvip_jax.data.webvid.webvid_dataset_builder import Builder, WebvidConfig
from clipvip_jax.utils.errors import UserError

LONG = "word " * 10_000
NAMES = {
  "1001": 'A "quoted" text, with commas\nand a second line',
  "1002": "tab\there, a \u0007 bell, a \U0001f600 face",
  "1003": LONG,
  "1004": "gone",
  "1005": "cut",
  "1006": "",
  **{str(1007 + n): f"text {n}" for n in range(6)},
}
COLUMNS = ["videoid", "contentUrl", "duration", "page_dir", "name"]


def page_dir(name):
  return f"00{name[-1]}001_00{name[-1]}050"


def write_table(path, names, columns=COLUMNS):
  path.parent.mkdir(parents=True, exist_ok=True)
  with path.open("w", encoding="utf-8", newline="") as file:
    writer = csv.DictWriter(file, columns, extrasaction="ignore")
    writer.writeheader()
    for name, text in names.items():
      row = {"videoid": name, "contentUrl": "https://x", "duration": "PT00H00M02S", "page_dir": page_dir(name)}
      writer.writerow({**row, "name": text})
  return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Twelve training clips of WebVid-2M, of which three are skipped, and four validation clips."""
  folder = tmp_path_factory.mktemp("webvid")
  validation = {str(2001 + n): f"question {n}" for n in range(4)}
  for number, name in enumerate([*NAMES, *validation]):
    corpora.write_video(folder / f"videos/{page_dir(name)}/{name}.mp4", count=10, fps=6, seed=number)
  (folder / f"videos/{page_dir('1004')}/1004.mp4").unlink()
  cut = folder / f"videos/{page_dir('1005')}/1005.mp4"
  cut.write_bytes(cut.read_bytes()[:-300])
  write_table(folder / "results_2M_train.csv", NAMES)
  write_table(folder / "results_2M_val.csv", validation)
  return folder


@pytest.fixture(scope="module")
def built(folder):
  return corpora.build(Builder, "2m", folder / "corpora", folder, max_skipped=0.5)


def test_builds_records(built):
  records = {record["id"]: record for record in corpora.read_back(built, "train")}
  assert list(records) == [name for name in NAMES if name not in ("1004", "1005", "1006")]
  assert records["1001"]["description"] == ['A "quoted" text, with commas and a second line']
  assert records["1002"]["description"] == ["tab here, a   bell, a \U0001f600 face"]
  assert records["1003"]["description"] == [LONG.strip()]
  assert all(record["num_frames"] == 5 and not record["subtitle"] for record in records.values())
  assert [record["description"] for record in corpora.read_back(built, "validation")][3] == ["question 3"]


def test_skipped_clips_are_counted_and_listed(built):
  counts = built.info.metadata["coverage"]["train"]
  assert {key: count for key, count in counts.items() if count} == {
    "expected": 12, "found": 9, "missing": 1, "undecodable": 1, "without_text": 1
  }  # fmt: skip
  rows = [line.split("\t")[:3] for line in (built.data_path / SKIPPED_FILE).read_text().splitlines()]
  assert sorted(rows) == [
    ["train", "missing", "1004"], ["train", "undecodable", "1005"], ["train", "without_text", "1006"]
  ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.unoptimized
def test_trains_two_steps(built, tmp_path):
  fields = {"evaluate.selection_split": "validation", "evaluate.final_splits": ("validation",)}
  fields |= {"loss": "vs", "data.subtitle": "description"}
  results = corpora.train_two_steps(built, tmp_path / "run", **fields)
  assert results["step"] == 2 and results["splits"]["validation"]["size"] == 4


@pytest.mark.parametrize("place", ["videos/train", "videos/train/" + page_dir("7"), "videos"])
def test_finds_partitions_and_videos(tmp_path, place):
  """WebVid-10M in partitions, only the training split; the first clip is missing."""
  write_table(tmp_path / "s/train/partitions/0001.csv", {"57": "last"})
  write_table(tmp_path / "s/train/partitions/0000.csv", {"17": "gone", "27": "first"}, COLUMNS[::-1])
  for name in ("27", "57"):
    corpora.write_video(tmp_path / f"s/{place}/{name}.mp4", count=4)
  config = WebvidConfig(name="mine", size="10M", splits=("train",))
  builder = corpora.build(Builder, config, tmp_path, tmp_path / "s", max_skipped=0.5)
  assert [record["id"] for record in corpora.read_back(builder, "train")] == ["27", "57"]


HEAD = b"videoid,contentUrl,duration,page_dir,name\r\n"


@pytest.mark.parametrize(
  ("table", "words"),
  [
    (b"", "line 1: no column videoid, name"),
    (b"id,text\n1,a\n", "line 1: no column videoid, name"),
    (HEAD + b"1001,u,d,p,a text\r\n1001,u,d,p,another\r\n", "clips 1 and 2 have the same id '1001'"),
    (HEAD + b"1001,u,d,p,a text\r\n1002,u,d", "line 3: expected 5 columns"),
    (HEAD + b"1001,u,d,p,a, text\r\n", "line 2: expected 5 columns"),
    (HEAD + b'1001,u,d,p,a text\r\n1002,u,d,p,"cut in a te', "invalid CSV"),
    (HEAD + b"1001,u,d,p,\xff\xfe\r\n", "not UTF-8 .*; re-encode the file"),
    (HEAD + b"../../x,u,d,p,text\r\n", r"line 2, videoid: '\.\./\.\./x' is outside of"),
    (HEAD + b"1001,u,d,../..,text\r\n", r"line 2, page_dir: '\.\./\.\.' is outside of"),
    (HEAD + b",u,d,p,text\r\n", "line 2, videoid: an id or path must be"),
    (
      HEAD + b"9,u,d,p,text\r\n",
      r"the first 1 videos of split 'train' exists; put .* at one of videos/\{page_dir\}",
    ),
    (HEAD, "no clips"),
  ],
)
def test_rejects_invalid_tables(tmp_path, table, words):
  (tmp_path / "results_2M_train.csv").write_bytes(table)
  corpora.write_video(tmp_path / "videos/1001.mp4", count=4)
  config = WebvidConfig(name="mine", size="2M", splits=("train",))
  with pytest.raises(UserError, match=words) as refused:
    corpora.build(Builder, config, tmp_path / "corpora", tmp_path)
  assert "\n" not in str(refused.value)


def test_rejects_missing_tables(folder, tmp_path):
  with pytest.raises(UserError, match=r"no table of split 'train'; put it at one of results_10M_train\.csv, "):
    corpora.build(Builder, "10m", tmp_path, folder)
  with pytest.raises(UserError, match="'test' is unknown to WebVid; use train, validation"):
    corpora.build(Builder, WebvidConfig(name="mine", size="2M", splits=("test",)), tmp_path, folder)
