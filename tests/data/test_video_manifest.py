"""Manifests: from a file of JSON lines to records, and two training steps."""

import json

import corpora
import pytest
from etils import epath

from clipvip_jax.data.engine.corpus_config import BuildOptions
from clipvip_jax.data.engine.coverage import SKIPPED_FILE
from clipvip_jax.data.video_manifest.video_manifest_dataset_builder import Builder, read_items
from clipvip_jax.utils.errors import UserError

LONG = "word " * 10_000


@pytest.fixture(scope="module")
def built(tmp_path_factory):
  """Six valid clips, and one of each kind of skipped clips."""
  folder = tmp_path_factory.mktemp("manifest")
  for number in range(4):
    corpora.write_video(folder / f"videos/{number}.mp4", count=12, fps=6, seed=number)
  cut = corpora.write_video(folder / "videos/cut.mp4")
  cut.write_bytes(cut.read_bytes()[:-300])
  (folder / "videos/empty.mp4").touch()
  rows = [
    {"video": "videos/0.mp4", "text": "one text", "caption": "a frame", "subtitle": "what is said"},
    {"video": "videos/1.mp4", "text": ["first", "", "second"]},
    {"video": "videos/2.mp4", "text": "the first second", "end": 1},
    {"video": "videos/2.mp4", "text": "the other", "start": 1.0, "end": 2.0},
    {"video": "videos/3.mp4", "text": "tab\there, a \u0007 bell, a \ud83d\ude00 face, half a face \ud83d"},
    {"video": "videos/0.mp4", "text": LONG, "id": "../long one"},
    {"video": "videos/0.mp4", "text": "", "id": "silent"},
    {"video": "videos/gone.mp4", "text": "gone"},
    {"video": "videos/cut.mp4", "text": "cut"},
    {"video": "videos/empty.mp4", "text": "empty"},
    {"video": "videos/1.mp4", "text": "after its end", "start": 60},
    *({"video": f"videos/{n}.mp4", "text": f"question {n}", "split": "test"} for n in range(4)),
  ]
  manifest = corpora.write_lines(folder / "mine.jsonl", rows)
  return corpora.build(Builder, "default", folder / "corpora", manifest, max_skipped=0.5)


def test_builds_records(built):
  records = {record["id"]: record for record in corpora.read_back(built, "train")}
  assert list(records) == [
    "videos/0.mp4", "videos/1.mp4", "videos/2.mp4@0-1", "videos/2.mp4@1-2", "videos/3.mp4", "../long one",
  ]  # fmt: skip
  first = records["videos/0.mp4"]
  assert (first["description"], first["caption"], first["subtitle"]) == (["one text"], "a frame", "what is said")
  assert records["videos/1.mp4"]["description"] == ["first", "second"]
  assert records["videos/3.mp4"]["description"] == ["tab here, a   bell, a \U0001f600 face, half a face"]
  assert records["../long one"]["description"] == [LONG.strip()]
  assert [records[name]["num_frames"] for name in ("videos/0.mp4", "videos/2.mp4@0-1")] == [6, 3]  # three a second
  assert len(corpora.read_back(built, "test")) == 4


def test_skipped_clips_are_counted_and_listed(built):
  counts = built.info.metadata["coverage"]["train"]
  assert counts == {
    "expected": 11, "found": 6, "missing": 1, "undecodable": 2, "too_short": 1, "without_text": 1,
    "lacking_subtitle": 0, "lacking_caption": 0,
  }  # fmt: skip
  rows = [line.split("\t") for line in (built.data_path / SKIPPED_FILE).read_text().splitlines()]
  assert {(row[1], row[2]) for row in rows} == {
    ("without_text", "silent"),
    ("missing", "videos/gone.mp4"),
    ("undecodable", "videos/cut.mp4"),
    ("undecodable", "videos/empty.mp4"),
    ("too_short", "videos/1.mp4@60-"),
  }
  assert built.info.metadata["pixels"] == (
    "3 frames a second; shorter side at most 256 pixels (area averaging); aspect kept; JPEG of quality 92, 4:2:0"
  )


@pytest.mark.slow
@pytest.mark.unoptimized
def test_trains_two_steps(built, tmp_path):
  fields = {"loss": "vs", "data.subtitle": "description", "evaluate.selection_split": "test"}
  results = corpora.train_two_steps(built, tmp_path / "run", **fields, **{"evaluate.final_splits": ("test",)})
  assert results["step"] == 2 and results["splits"]["test"]["size"] == 4
  assert results["corpus"]["coverage"]["train"]["missing"] == 1
  assert results["corpus"]["pixels"].startswith("3 frames a second")


def test_joins_paragraphs(tmp_path):
  corpora.write_video(tmp_path / "v.mp4")
  manifest = corpora.write_lines(tmp_path / "m.jsonl", [{"video": "v.mp4", "text": ["He sits.", "She stands."]}])
  config = type(Builder.builder_configs["default"])(name="joined", texts="paragraph")
  [record] = corpora.read_back(corpora.build(Builder, config, tmp_path / "corpora", manifest), "train")
  assert record["description"] == ["He sits. She stands."]


def test_null_is_the_default_as_of_empty_cells_of_a_table(tmp_path):
  corpora.write_video(tmp_path / "v.mp4")
  empty = dict.fromkeys(("caption", "subtitle", "start", "end", "split", "id"))
  lines = [{"video": "v.mp4", "text": "a"}, {"video": "v.mp4", "text": "b", **empty}, {**empty, "video": "w.mp4"}]
  items = [*read_items(epath.Path(corpora.write_lines(tmp_path / "m.jsonl", lines)))]
  assert [(item.id, item.split, item.descriptions) for item in items] == [
    ("v.mp4", "train", ("a", "b")),
    ("w.mp4", "train", ()),
  ]


GOOD = {"video": "v.mp4", "text": "t"}


@pytest.mark.parametrize(
  ("lines", "words"),
  [
    ([json.dumps(GOOD), '{"video": "w.mp4", "text": '], "m.jsonl, line 2: invalid JSON"),
    (["[1, 2]"], "line 1: expected a JSON object"),
    ([json.dumps({**GOOD, "txt": "x"})], r"line 1: unknown fields \"txt\"; use video, text"),
    ([json.dumps({"text": "x"})], "line 1, video: an id or path must be a non-empty string"),
    ([json.dumps({**GOOD, "text": 3})], "line 1, text: a text must be a string, got the number"),
    (
      [json.dumps({**GOOD, "start": "1"})],
      r'line 1: start must be seconds .*, got the string "1"; write a number such as 12.5',
    ),
    ([json.dumps({**GOOD, "start": 10**400})], "line 1: start must be seconds from 0 to 1e"),
    ([json.dumps({**GOOD, "split": "a" * 300})], "line 1: invalid split .*; use at most 50 letters"),
    ([json.dumps({**GOOD, "video": "http://a/b.mp4"})], "line 1: 'http://a/b.mp4' is not readable; download it"),
    ([json.dumps({**GOOD, "split": f"s{n}"}) for n in range(200)], "have more than 100 splits"),
    ([json.dumps({**GOOD, "start": 3, "end": 2})], "line 1: end=2 must be greater than start=3"),
    ([json.dumps({**GOOD, "split": "../x"})], "line 1: invalid split .*; use at most 50 letters"),
    (
      [json.dumps({**GOOD, "id": "a"}), json.dumps({"video": "w.mp4", "id": "a"})],
      "clips 1 and 2 have the same id 'a'",
    ),
    ([json.dumps({**GOOD, "caption": c}) for c in "ab"], 'line 2: another caption than on an earlier line .*an "id"'),
    ([json.dumps({**GOOD, "video": 7010})], r'line 1, video: .*, got the number 7010; write "7010"'),
    ([json.dumps({**GOOD, "text": float("nan")})], "line 1, text: a text must be a string, got NaN$"),
    ([json.dumps({**GOOD, "text": {"en": "x"}})], r'line 1, text: a text must be a string, got {"en": "x"}'),
    (['{"video": "v.mp4", "text": "first", "text": "second"}'], "line 1: invalid JSON .the key 'text' occurs twice"),
    ([], "have no clips"),
    (["\ufffd" * 3], "line 1: invalid JSON"),
  ],
)
def test_rejects_invalid_manifests(tmp_path, lines, words):
  corpora.write_video(tmp_path / "v.mp4")
  (tmp_path / "m.jsonl").write_text("\n".join(lines))
  with pytest.raises(UserError, match=words) as refused:
    corpora.build(Builder, "default", tmp_path / "corpora", tmp_path / "m.jsonl")
  assert "\n" not in str(refused.value)
  assert not list((tmp_path / "corpora").rglob("*.array_record*"))


def test_all_spellings_of_a_file_are_one_clip_with_several_texts(tmp_path, caplog):
  caplog.set_level("INFO", "clipvip_jax")
  (tmp_path / "sub").mkdir()
  for name in ("a.mp4", "cafe\u0301.mp4", "b.mp4"):
    (tmp_path / name).write_bytes(b"x")
  (tmp_path / "link.mp4").symlink_to("a.mp4")
  (tmp_path / "linked").symlink_to("sub")
  a = ["a.mp4", "./a.mp4", "b.mp4", "sub/../a.mp4", f"{tmp_path}/a.mp4", "link.mp4", "linked/../a.mp4", "a.mp4"]
  rows = [{"video": name, "text": f"{number}"} for number, name in enumerate(a)]
  rows += [{"video": name, "text": name} for name in ("caf\u00e9.mp4", "cafe\u0301.mp4")]
  rows += [{"video": "a.mp4", "text": "x", "start": 1}, {"video": "./a.mp4", "text": "y", "start": 1}]
  rows += [{"video": "a.mp4", "text": text, "id": "mine"} for text in ("one", "two", "one")]
  rows += [{"video": "a.mp4", "text": "1", "split": "test"}]
  options = BuildOptions(raw_dir=str(corpora.write_lines(tmp_path / "m.jsonl", rows)))
  builder = Builder(config="default", data_dir=str(tmp_path), options=options)
  items = list(builder.items(builder.raw_dir))
  assert [(item.id, item.descriptions) for item in items] == [
    ("a.mp4", ("0", "1", "3", "4", "5", "6", "7")),
    ("b.mp4", ("2",)),
    ("caf\u00e9.mp4", ("caf\u00e9.mp4", "cafe\u0301.mp4")),
    ("a.mp4@1-", ("x", "y")),
    ("mine", ("one", "two")),
    ("a.mp4", ("1",)),
  ]
  assert "m.jsonl: 10 lines repeat the clip of an earlier line; it keeps all texts" in caplog.text


def test_raw_dir_is_made_absolute(tmp_path, monkeypatch):
  corpora.write_lines(tmp_path / "mine.jsonl", [{"video": "v.mp4", "text": "a"}])
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv("HOME", str(tmp_path))
  for named in ("mine.jsonl", "~/mine.jsonl"):
    builder = Builder(config="default", data_dir=str(tmp_path), options=BuildOptions(raw_dir=named))
    (item,) = builder.items(builder.raw_dir)
    assert item.video == str(tmp_path / "v.mp4")


def test_rejects_missing_manifest(tmp_path):
  with pytest.raises(UserError, match=r"no\.jsonl: no such file or folder; set --raw_dir=PATH"):
    corpora.build(Builder, "default", tmp_path, tmp_path / "no.jsonl")
  with pytest.raises(UserError, match="--raw_dir=FILE"):
    corpora.build(Builder, "default", tmp_path, "")
