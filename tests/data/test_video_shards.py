"""Miniatures of tar files of videos: compared with the loose files, and corrupt in many ways."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import tarfile
import unicodedata

import corpora
import pyarrow
import pytest
from pyarrow import parquet
from waiting import wait_until

from clipvip_jax.data.engine.coverage import SKIPPED_FILE
from clipvip_jax.data.engine.dry_run import check_corpus
from clipvip_jax.data.video_manifest.video_manifest_dataset_builder import Builder as ManifestBuilder
from clipvip_jax.data.video_shards.shard_patterns import expand_braces
from clipvip_jax.data.video_shards.video_shards_dataset_builder import Builder, VideoShardsConfig
from clipvip_jax.utils.errors import UserError


def config(**fields):
  return VideoShardsConfig(name="mine", fps=3, **fields)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
  """Paths of six videos: mp4, Matroska and MPEG-PS."""
  folder = tmp_path_factory.mktemp("videos")
  paths = [corpora.write_video(folder / f"{n}.mp4", seed=n) for n in range(4)]
  paths.append(corpora.encode(folder / "4.mkv", corpora.moving_frames(seed=4), "libx264"))
  paths.append(corpora.encode(folder / "5.mpg", corpora.moving_frames(count=30, seed=5), "mpeg2video", rate=25))
  return paths


TEXTS = [{"text": f"clip {n}", "subtitle": f"speech {n}", "caption": f"frame {n}"} for n in range(6)]


def write_shards(folder, videos, per_shard=3):
  """Writes 000.tar, 001.tar ... with KEY.EXT, KEY.txt and KEY.json."""
  for first in range(0, len(videos), per_shard):
    members = {}
    for number in range(first, min(first + per_shard, len(videos))):
      key, texts = f"sub.dir/{number:05}", TEXTS[number % len(TEXTS)]
      members[f"{key}{videos[number].suffix}"] = videos[number].read_bytes()
      members[f"sub.dir/._{number:05}.mp4"] = b"\0\5\x16\7"
      members[f"{key}.txt"] = texts["text"]
      members[f"{key}.json"] = {"said": {"lines": [texts["subtitle"]]}, "seen.middle": texts["caption"], "n": 1}
    corpora.write_tar(folder / f"{first // per_shard:03}.tar", members)
  return folder


SOURCES = {"subtitle_from": "json:said.lines", "caption_from": "json:seen.middle"}


def test_builds_the_records_of_the_loose_files(videos, tmp_path):
  folder = write_shards(tmp_path / "shards", videos)
  ids = [f"{number // 3:03}/sub.dir/{number:05}" for number in range(6)]
  rows = [
    {"id": name, "video": str(video), **TEXTS[n]} for n, (name, video) in enumerate(zip(ids, videos, strict=True))
  ]
  loose = corpora.build(ManifestBuilder, "default", tmp_path, corpora.write_lines(tmp_path / "loose.jsonl", rows))
  built = corpora.build(Builder, config(shards="{000..001}.tar", **SOURCES), tmp_path, folder)
  assert corpora.read_back(built, "train") == corpora.read_back(loose, "train")


def test_splits_parquet_and_several_sources(videos, tmp_path):
  corpora.write_tar(tmp_path / "train/a.tar", {"1.mp4": videos[0].read_bytes(), "2.mp4": videos[1].read_bytes()})
  corpora.write_tar(tmp_path / "val/a.tar", {"1.MP4": videos[2].read_bytes(), "1.en.txt": "in English", "1.cls": "7"})
  corpora.write_tar(tmp_path / "val/b.tar", {"1.mp4": videos[2].read_bytes(), "1.json": {"caption": "of JSON"}})
  for name, keys in (("train/a", "12"), ("val/a", "1"), ("val/b", "1")):
    table = pyarrow.table({"key": list(keys), "speech": [["one", "two"]] * len(keys), "title": [f"t{k}" for k in keys]})
    parquet.write_table(table, tmp_path / f"{name}.parquet")
  sources = {"description_from": "en.txt,json:caption,parquet:title", "subtitle_from": "parquet:speech"}
  fields = config(shards="train/*.tar", validation_shards="{val,val}/*.tar", **sources)
  built = corpora.build(Builder, fields, tmp_path / "corpora", tmp_path)
  records = [*corpora.read_back(built, "train"), *corpora.read_back(built, "validation")]
  assert [(record["id"], record["description"], record["subtitle"]) for record in records] == [
    ("train/a/1", ["t1"], "one two"),
    ("train/a/2", ["t2"], "one two"),
    ("val/a/1", ["in English"], "one two"),
    ("val/b/1", ["of JSON"], "one two"),
  ]


def test_spans(videos, tmp_path):
  entries = [[0, 1], {"start": "00:00:01.000", "end": 2.0, "said": ["so", "then"]}, [0.5, 1.5]]
  members = {"a.mp4": videos[0].read_bytes(), "a.json": {"clips": entries}, "a.txt": "all"}
  corpora.write_tar(tmp_path / "0.tar", {**members, "b.mp4": videos[1].read_bytes(), "b.json": {"clips": []}})
  rows = [
    {"id": "0/a@0-1", "video": str(videos[0]), "start": 0, "end": 1, "text": "all"},
    {"id": "0/a@1-2", "video": str(videos[0]), "start": 1, "end": 2, "text": "all", "subtitle": "so then"},
    {"id": "0/a@0.5-1.5", "video": str(videos[0]), "start": 0.5, "end": 1.5, "text": "all"},
  ]
  loose = corpora.build(ManifestBuilder, "default", tmp_path, corpora.write_lines(tmp_path / "loose.jsonl", rows))
  fields = config(spans_from="json:clips", subtitle_from="span:said")
  built = corpora.build(Builder, fields, tmp_path, tmp_path, max_missing_text=1.0)
  assert corpora.read_back(built, "train") == corpora.read_back(loose, "train")
  assert built.info.metadata["coverage"]["train"]["lacking_subtitle"] == 2


def test_corrupt_samples_are_named_and_counted(videos, tmp_path):
  video = videos[0].read_bytes()
  members = {
    "good.mp4": video, "good.txt": "t",
    "cut.mp4": video[:-300], "cut.txt": "t",
    "only_text.txt": "t",
    "empty.mp4": b"", "empty.txt": "t",
    "no_text.mp4": video,
    "encoding.mp4": video, "encoding.txt": b"\xff\xfe",
    "json.mp4": video, "json.json": "{",
    "type.mp4": video, "type.json": {"caption": 7},
    "two.mp4": video, "two.mkv": video, "two.txt": "t",
    "case.mp4": video, "case.txt": "t", "case.TXT": "u",
    "dots.a.mp4": video, "dots.txt": "t",
  }  # fmt: skip
  corpora.write_tar(tmp_path / "0.tar", members)
  built = corpora.build(Builder, config(), tmp_path / "corpora", tmp_path, max_skipped=1.0)
  rows = [line.split("\t")[1:] for line in (built.data_path / SKIPPED_FILE).read_text().splitlines()]
  assert [(reason, name) for reason, name, _ in rows] == [
    ("undecodable", "0/cut"), ("missing", "0/only_text"), ("missing", "0/empty"), ("without_text", "0/no_text"),
    ("undecodable", "0/encoding"), ("undecodable", "0/json"), ("undecodable", "0/type"), ("undecodable", "0/two"),
    ("undecodable", "0/case"), ("missing", "0/dots"),
  ]  # fmt: skip
  details = {name: detail for _, name, detail in rows}
  assert details["0/cut"] == f"{tmp_path}/0.tar: no frame can be decoded"
  assert "txt: the text is not UTF-8" in details["0/encoding"] and "json: invalid JSON" in details["0/json"]
  assert "several videos (.mp4, .mkv); keep one of them" in details["0/two"]
  assert [record["id"] for record in corpora.read_back(built, "train")] == ["0/good"]


def test_check_and_build_give_the_same_reasons(videos, tmp_path):
  video = videos[0].read_bytes()
  members = {f"{n}.{extension}": video for n in range(2) for extension in ("mp4", "webm")}
  members |= {"4.MXF": video, "5.mp4": corpora.tar_link("/x.mp4", tarfile.SYMTYPE), "6.mp4": corpora.tar_link("0.mp4")}
  members |= {"6.txt": "u", **{f"{n}.txt": "t" for n in (0, 1, 4, 5)}}
  corpora.write_tar(tmp_path / "0.tar", dict(sorted(members.items())))
  built = corpora.build(Builder, config(), tmp_path / "corpora", tmp_path, max_skipped=1.0)
  rows = [line.split("\t")[1:] for line in (built.data_path / SKIPPED_FILE).read_text().splitlines()]
  for decoded in (0, -1):
    (result,) = check_corpus(built, decoded).values()
    assert [(clip.reason, clip.name) for clip in result.skipped] == [(reason, name) for reason, name, _ in rows]
    assert all(row[2].endswith(f": {clip.detail}") for row, clip in zip(rows, result.skipped, strict=True))
    assert (result.missing, result.corrupt, result.skipped_fraction) == (2, 2, pytest.approx(0.8))
  details = [detail for _, _, detail in rows]
  assert "'0', several videos (.mp4, .webm)" in details[0] and "the tar file has: '4.MXF'" in details[2]
  assert "'5.mp4' (a symbolic link to '/x.mp4'" in details[3]
  assert [record["id"] for record in corpora.read_back(built, "train")] == ["0/6"]


def test_keys_with_nothing_but_a_link_or_an_empty_video_are_missing(tmp_path):
  members = {"0.mp4": corpora.tar_link("/x.mp4", tarfile.SYMTYPE), "1.mp4": b"", "2.md": b"x", "3.mp4": b"x"}
  corpora.write_tar(tmp_path / "0.tar", members | {"3.txt": "t"})
  items = corpora.planned(Builder, config(), tmp_path)["train"]
  assert [item.id for item in items] == ["0/0", "0/1", "0/3"]
  assert "'0.mp4' (a symbolic link" in items[0].missing_video and "'1.mp4' (empty)" in items[1].missing_video


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_keys_of_tables_match_in_any_unicode_form(tmp_path, form):
  name = unicodedata.normalize(form, "café")
  corpora.write_tar(tmp_path / "0.tar", {"café.mp4": b"x", f"{name}.cls": "1"})
  parquet.write_table(pyarrow.table({"key": [name], "title": ["t"]}), tmp_path / "0.parquet")
  (item,) = corpora.planned(Builder, config(description_from="parquet:title"), tmp_path)["train"]
  assert (item.id, item.descriptions) == ("0/café", ("t",))


@pytest.mark.parametrize(
  ("entries", "words"),
  [
    ([[2, 1]], "span 1: end=1 must be greater than start=2"),
    ([["later", 1]], 'span 1: start must be seconds from 0 to .*, got the string "later"'),
    ([[1, 2, 3]], r"span 1: expected \[START, END\] or {start, end}, got \[1, 2, 3\]"),
    ([{}], "span 1: expected"),
    ("all", 'json:clips: expected a list .*, got "all"'),
    (None, "json:clips: expected a list .*, got null"),
  ],
)
def test_corrupt_spans_are_named(tmp_path, entries, words):
  samples = {"a.mp4": b"x", "a.json": {"clips": entries, "caption": "t"}}
  corpora.write_tar(tmp_path / "0.tar", {**samples, "b.mp4": b"x", "b.json": {"clips": [[0, 1]], "caption": "t"}})
  bad, good = corpora.planned(Builder, config(spans_from="json:clips"), tmp_path)["train"]
  assert good.id == "0/b@0-1" and not good.error
  with pytest.raises(UserError, match=words):
    raise UserError(bad.error)


@pytest.mark.parametrize(
  ("fields", "words"),
  [
    ({"shards": "{000..001}.tar"}, r"001\.tar: no such file; 1 of the 2 tar files .* do not exist"),
    ({"shards": "{1}.tar"}, r"\{1\} is unknown; use \{000\.\.999\} or \{a,b\}"),
    ({"shards": "{9..1}.tar"}, "must count up"),
    ({"shards": "{0..9}{0..9}{0..9}{0..9}{0..9}{0..9}{0..9}"}, "more than 1000000 files"),
    ({"shards": "gs://b/*.tar"}, "patterns are relative; set --raw_dir"),
    ({"shards": "no/*.tar"}, r"no tar files match no/\*\.tar"),
    ({"description_from": "yaml:x"}, "'yaml:x' is unknown; use an extension such as txt, json:FIELD"),
    ({"description_from": "json"}, "'json' is unknown"),
    ({"spans_from": "txt"}, "--spans_from=txt must be one of json:FIELD and parquet:COLUMN"),
    ({"subtitle_from": "span:x"}, "set --spans_from=json:FIELD"),
    ({"subtitle_from": "json:no"}, "none of the first 1 clips has a subtitle in json:no; set --subtitle_from to one of "
      "those that the first sample has: txt, json:caption$"),
    ({"subtitle_from": "parquet:x"}, r"000\.parquet: no such file; put the table of the tar file here"),
  ],
)  # fmt: skip
def test_rejects_wrong_options(tmp_path, fields, words):
  corpora.write_tar(tmp_path / "000.tar", {"a.mp4": b"x", "a.txt": "t", "a.json": {"caption": "c"}})
  with pytest.raises(UserError, match=words) as refused:
    corpora.planned(Builder, config(**fields), tmp_path)
  assert "\n" not in str(refused.value)


@pytest.mark.parametrize("corrupt", [b"PAR1 no table PAR1", b"", "no column"])
def test_rejects_corrupt_tables(tmp_path, corrupt):
  corpora.write_tar(tmp_path / "0.tar", {"a.mp4": b"x"})
  if isinstance(corrupt, str):
    parquet.write_table(pyarrow.table({"other": [1]}), tmp_path / "0.parquet")
  else:
    (tmp_path / "0.parquet").write_bytes(corrupt)
  with pytest.raises(UserError, match=r"0\.parquet: (cannot be read as Parquet|no column key, title; it has other)"):
    corpora.planned(Builder, config(description_from="parquet:title"), tmp_path)


@pytest.mark.parametrize("name", ["{000..999}.tar", "*.tar", "000.tar"])
def test_a_pattern_in_place_of_the_folder_is_explained(tmp_path, name):
  with pytest.raises(UserError, match=r"is not a folder; set --raw_dir=.* and --shards='.*\.tar'"):
    corpora.planned(Builder, config(), tmp_path, raw_dir=f"{tmp_path}/{name}")


def test_rejects_truncated_tars(videos, tmp_path):
  path = write_shards(tmp_path, videos[:2]) / "000.tar"
  content = path.read_bytes()
  for size in (0, 512, len(content) // 2, len(content) // 2 // 512 * 512):
    path.write_bytes(content[:size])
    with pytest.raises(UserError, match=r"000\.tar: the tar file is truncated or corrupt .*; copy"):
      corpora.planned(Builder, config(), tmp_path)


def test_expands_braces():
  assert expand_braces("x/{008..010}-{a,b}.tar") == [f"x/{n}-{c}.tar" for n in ("008", "009", "010") for c in "ab"]
  assert expand_braces("{8..10}") == ["8", "9", "10"]
  assert expand_braces("plain.tar") == ["plain.tar"]


PROGRAM = """
import sys
from clipvip_jax.data_tool import main
from clipvip_jax.utils.cli import run_command
run_command(main)
"""


@pytest.mark.slow
def test_a_killed_build_resumes(videos, tmp_path):
  """32 clips of eleven tar files in four shards of records."""
  folder = write_shards(tmp_path / "shards", [videos[n % 6] for n in range(32)])
  flags = ["--decoder=odd_decoders:slow", "--clips_per_shard=8", "--name=mine", "--workers=1"]
  arguments = [sys.executable, "-c", PROGRAM, "build", "video_shards", f"--raw_dir={folder}", *flags]
  environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
  broken, complete = tmp_path / "broken", tmp_path / "complete"
  waiting = {**environment, "ODD_DECODER_WAITS": f"{broken}:2"}
  child = subprocess.Popen([*arguments, f"--data_dir={broken}"], env=waiting, stdout=subprocess.DEVNULL)
  wait_until(lambda: len(list(broken.rglob("train-*.json"))) == 2, child)
  child.send_signal(signal.SIGKILL)
  assert child.wait() == -signal.SIGKILL
  kept = next(broken.rglob("train-00000.array_record")).stat().st_mtime_ns
  for data_dir in (broken, complete):
    subprocess.run([*arguments, f"--data_dir={data_dir}"], env=environment, check=True, stdout=subprocess.DEVNULL)
  corpus = pathlib.Path("video_shards/mine/1.0.0")
  for name in sorted(path.name for path in (complete / corpus).iterdir()):
    assert (broken / corpus / name).read_bytes() == (complete / corpus / name).read_bytes(), name
  first = broken / corpus / "video_shards-train.array_record-00000-of-00004"
  assert first.stat().st_mtime_ns == kept  # not built again
  assert json.loads((broken / corpus / "metadata.json").read_text())["coverage"]["train"]["found"] == 32


def test_shards_in_a_bucket_give_the_records_of_local_ones(videos, tmp_path, bucket):
  folder = write_shards(tmp_path / "shards", videos[:4], per_shard=2)
  table = pyarrow.table({"key": [f"{number:05}" for number in range(4)], "place": [f"place {n}" for n in range(4)]})
  for name in ("000", "001"):
    parquet.write_table(table, folder / f"{name}.parquet")
  address = bucket.upload(folder, "shards")
  fields = config(shards="{000..001}.tar", subtitle_from="parquet:place", caption_from="json:seen.middle")
  local = corpora.build(Builder, fields, tmp_path / "local", folder)
  remote = corpora.build(Builder, fields, tmp_path / "remote", address)
  assert corpora.read_back(remote, "train") == corpora.read_back(local, "train")
  with pytest.raises(UserError, match=r"002\.tar: no such file; 1 of the 3 tar files"):
    corpora.build(Builder, config(shards="{000..002}.tar"), tmp_path / "other", address)
