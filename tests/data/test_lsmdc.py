"""A miniature of LSMDC: tab-separated tables with quotation marks, and clips in folders of movies."""

import corpora
import pytest

from clipvip_jax.data.engine.annotations import RetrievalConfig
from clipvip_jax.data.engine.coverage import SKIPPED_FILE
from clipvip_jax.data.lsmdc.lsmdc_dataset_builder import Builder
from clipvip_jax.utils.errors import UserError

MOVIES = ("0001_American_Beauty", "1004_Juno")


def clip(movie, second):
  return f"{movie}_00.00.{second:02}.926-00.00.{second + 4:02}.129"


TRAIN = [clip(movie, second) for movie in MOVIES for second in range(10, 14)]
VAL, TEST = [clip("3009_IT'S_A_MOVIE", 20)], [clip("1005_Signs", second) for second in range(30, 33)]
SENTENCES = ['She looks at "him", and says: "No"', "SOMEONE's dog barks,\u00a0and runs.", 'One "']


def table(clips, sentence=None):
  """Returns lines of the owner's tables."""
  times = "00.00.51.926\t00.00.54.129\t00.00.51.426\t00.00.54.629"
  return "".join(f"{name}\t{times}\t{sentence or SENTENCES[i % 3]}\n" for i, name in enumerate(clips))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
  """The owner's tables and .avi files; one clip has two sentences, one no folder, three are missing or corrupt."""
  folder = tmp_path_factory.mktemp("lsmdc")
  (folder / "LSMDC16_annos_training.csv").write_text(table(TRAIN) + "\n" + table(TRAIN[:1], "A second one.\t"))
  (folder / "LSMDC16_annos_val.csv").write_text(table(VAL))
  (folder / "LSMDC16_challenge_1000_publictect.csv").write_text(table(TEST), newline="\r\n")
  for seed, name in enumerate([*TRAIN, *VAL, *TEST]):
    path = folder / "videos" / name.rpartition("_")[0] / f"{name}.avi"
    path.parent.mkdir(parents=True, exist_ok=True)
    corpora.encode(path, corpora.moving_frames(12, seed), "mpeg4", rate=12)
  videos = [folder / "videos" / name.rpartition("_")[0] / f"{name}.avi" for name in TRAIN]
  videos[1].unlink()
  videos[2].write_bytes(b"")
  videos[3].write_bytes(videos[3].read_bytes()[:200])
  videos[4].rename(folder / "videos" / videos[4].name)
  return folder


@pytest.fixture(scope="module")
def built(source):
  return corpora.build(Builder, "default", source / "corpora", source, max_skipped=0.5)


def test_builds_records(built):
  records = {record["id"]: record for record in corpora.read_back(built, "train")}
  assert list(records) == [TRAIN[0], *TRAIN[4:]]
  assert records[TRAIN[0]]["description"] == [SENTENCES[0], "A second one."]
  assert records[TRAIN[4]]["description"] == [SENTENCES[1]]
  assert {record["num_frames"] for record in records.values()} == {6}  # six a second of twelve
  assert [record["id"] for record in corpora.read_back(built, "validation")] == VAL
  assert [record["id"] for record in corpora.read_back(built, "test")] == TEST
  assert [record["description"] for record in corpora.read_back(built, "test")] == [[text] for text in SENTENCES]


def test_skipped_clips_are_counted_and_listed(built):
  counts = built.info.metadata["coverage"]["train"]
  assert [counts[key] for key in ("expected", "found", "missing", "undecodable")] == [8, 5, 1, 2]
  rows = [line.split("\t") for line in (built.data_path / SKIPPED_FILE).read_text().splitlines()]
  assert [row[1:3] for row in rows] == [["missing", TRAIN[1]], ["undecodable", TRAIN[2]], ["undecodable", TRAIN[3]]]
  assert rows[0][3].endswith(f"videos/{MOVIES[0]}/{TRAIN[1]}.avi: no such file")


@pytest.mark.slow
@pytest.mark.unoptimized
def test_trains_two_steps(built, tmp_path):
  fields = {"loss": "vs", "data.subtitle": "description", "evaluate.selection_split": "test"}
  results = corpora.train_two_steps(built, tmp_path / "run", **fields, **{"evaluate.final_splits": ("test",)})
  assert results["step"] == 2 and results["splits"]["test"]["size"] == 3


def plan(folder, config="default", **options):
  return corpora.planned(Builder, config, folder, **options)


def test_reads_json_lines_without_validation(source, tmp_path):
  """Files of CLIP-ViP's authors: names with or without the movie's folder."""
  (tmp_path / "videos").mkdir()
  (tmp_path / "videos/avi").symlink_to(source / "videos")
  names = [f"{name.rpartition('_')[0]}/{name}" for name in TRAIN]
  corpora.write_lines(tmp_path / "train_101k_frame.jsonl", [{"clip_id": n, "text": "t", "num_frame": 9} for n in names])
  corpora.write_lines(tmp_path / "test_1k_frame.jsonl", [{"clip_id": f"{n}.avi", "text": ["t"]} for n in TEST])
  found = plan(tmp_path)
  assert {split: [item.id for item in items] for split, items in found.items()} == {"train": TRAIN, "test": TEST}
  assert found["train"][0].video == str(tmp_path / f"videos/avi/{names[0]}.avi")
  assert found["train"][4].video == str(tmp_path / f"videos/avi/{TRAIN[4]}.avi")
  assert found["test"][0].video == str(tmp_path / f"videos/avi/1005_Signs/{TEST[0]}.avi")
  with pytest.raises(UserError, match=r"put LSMDC16_annos_val\.csv"):
    plan(tmp_path, RetrievalConfig(name="three", splits=("train", "validation", "test")))


def test_checks_official_sizes(tmp_path):
  names = [f"1_M_{n}" for n in range(7408)]
  (tmp_path / "LSMDC16_annos_training.csv").write_text(table(TRAIN))
  (tmp_path / "LSMDC16_annos_val.csv").write_text(table(names))
  (tmp_path / "LSMDC16_challenge_1000_publictect.csv").write_text(table(names[:1000]))
  assert [len(items) for items in plan(tmp_path, check_sizes=True).values()] == [8, 1000, 7408]
  (tmp_path / "LSMDC16_annos_val.csv").write_text(table(names[:-1]))
  (tmp_path / "LSMDC16_challenge_1000_publictect.csv").write_text(table(names[:999]))
  words = "validation has 7407 clips, officially 7408; test has 999 clips, officially 1000.*--check_sizes=false"
  with pytest.raises(UserError, match=words):
    plan(tmp_path, check_sizes=True)


@pytest.mark.parametrize(
  ("text", "words"),
  [
    (table(TRAIN) + "a\tb\tc\n", r"LSMDC16_annos_training\.csv, line 9: expected 6 columns separated by tabs, got 3"),
    (table(["../../x"]), r"line 1: '\.\./\.\./x' is outside of"),
    (table(["/etc/x"]), "line 1: '/etc/x' is outside of"),
    (b"a\t\xff", r"line 1: not UTF-8 .*; re-encode the file"),
    (b"", "split 'train' has no clips"),
  ],
)
def test_rejects_invalid_tables(tmp_path, text, words):
  (tmp_path / "LSMDC16_annos_training.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
  (tmp_path / "LSMDC16_challenge_1000_publictect.csv").write_text(table(TEST))
  with pytest.raises(UserError, match=words) as refused:
    plan(tmp_path)
  assert "\n" not in str(refused.value)
