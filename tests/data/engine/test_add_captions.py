"""Editions of built corpora with other captions: equal to a build with them, resumable, and what is refused."""

import json
import pathlib
import shutil
import types

import corpora
import pytest
import written_corpus
from caption_endpoint import picture

from clipvip_jax.data.engine import add_captions as add
from clipvip_jax.data.engine.add_captions import add_captions
from clipvip_jax.data.video_manifest.video_manifest_dataset_builder import Builder
from clipvip_jax.utils import file_digests
from clipvip_jax.utils.errors import UserError

HEADER = {"model": "m", "prompt": "What?"}


def write_captions(path, captions, header=HEADER):
  rows = [{"header": header}, *({"id": name, "caption": text} for name, text in captions.items())]
  return str(corpora.write_lines(path, rows))


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
  """A folder with a manifest of three videos in two splits, without captions but for the first, and captions."""
  folder = tmp_path_factory.mktemp("videos")
  for number in range(3):
    corpora.write_video(folder / f"{number}.mp4", seed=number)
  rows = [{"video": f"{n}.mp4", "text": f"text {n}", "split": "test" if n == 2 else "train"} for n in range(3)]
  corpora.write_lines(folder / "mine.jsonl", rows)
  write_captions(folder / "captions" / "one.jsonl", {"0.mp4": "a dog", "1.mp4": "", "2.mp4": "é 犬"})
  return folder


def metadata(folder):
  return json.loads((pathlib.Path(folder) / "metadata.json").read_text(encoding="utf-8"))


def array_records(folder):
  return {path.name: path.read_bytes() for path in pathlib.Path(folder).glob("*.array_record*")}


def test_an_edition_equals_a_build_with_the_captions(videos, tmp_path):
  captions = str(videos / "captions")
  plain = corpora.build(Builder, "default", tmp_path / "plain", videos / "mine.jsonl")
  built = corpora.build(Builder, "default", tmp_path / "built", videos / "mine.jsonl", captions=captions)
  edition = add_captions(plain.data_path, [captions], "")
  assert edition == tmp_path / "plain" / "video_manifest" / "default+captions" / "1.0.0"
  assert array_records(edition) == array_records(built.data_path) != array_records(plain.data_path)
  assert [record["caption"] for record in corpora.read_back(built, "train")] == ["a dog", ""]
  assert [record["caption"] for record in corpora.read_back(built, "test")] == ["é 犬"]
  for content in (metadata(edition), metadata(built.data_path)):
    assert content["captions"] == [HEADER]
    assert [content["coverage"][split]["lacking_caption"] for split in ("train", "test")] == [1, 0]
  assert metadata(edition)["lookups"] == metadata(built.data_path)["lookups"]
  assert metadata(edition)["edition_of"] == "video_manifest/default/1.0.0"
  assert file_digests.check_digests(edition)
  info = [json.loads((pathlib.Path(path) / "dataset_info.json").read_text()) for path in (edition, built.data_path)]
  assert info[0]["splits"] == info[1]["splits"]


def test_a_build_with_captions_of_other_clips_is_refused(videos, tmp_path):
  others = write_captions(tmp_path / "others.jsonl", {"x.mp4": "a dog"})
  with pytest.raises(UserError, match=r"no caption for any of the first 3 clips; its ids are like 'x.mp4'"):
    corpora.build(Builder, "default", tmp_path / "corpora", videos / "mine.jsonl", captions=others)


@pytest.fixture(scope="module")
def template(tmp_path_factory):
  """A corpus of four files of 64 clips, of which every second has a caption."""
  records = [
    {"id": f"clip{i}", "frames": [picture(i)], "description": ["text"], "caption": f"old {i}" if i % 2 else ""}
    for i in range(200)
  ]
  folder = tmp_path_factory.mktemp("template")
  metadata = {"settings": {"fps": 3}, "coverage": {"train": {"expected": 210, "found": 200}}}
  return written_corpus.write(folder, records, "video_manifest", "one", metadata=metadata)


@pytest.fixture
def corpus(template, tmp_path):
  """A copy of `template`."""
  return shutil.copytree(template, tmp_path / "video_manifest" / "one" / "1.0.0")


def captions_of(folder):
  import tensorflow_datasets as tfds

  records = tfds.builder_from_directory(folder).as_data_source("train")
  return {record["id"].decode(): record["caption"].decode() for record in records}


def test_clips_without_a_new_caption_keep_their_own(corpus, tmp_path, caplog):
  caplog.set_level("INFO", "clipvip_jax")
  new = {f"clip{i}": f"new {i}" for i in range(100)}
  edition = add_captions(corpus, [write_captions(tmp_path / "new.jsonl", new)], "two")
  expected = {f"clip{i}": f"new {i}" if i < 100 else f"old {i}" if i % 2 else "" for i in range(200)}
  assert captions_of(edition) == expected
  assert metadata(edition)["coverage"]["train"]["lacking_caption"] == 50
  assert captions_of(corpus)["clip1"] == "old 1"
  assert "train: 50 captions added, 50 replaced, 50 kept, 50 clips lacking caption" in caplog.text


@pytest.mark.slow
@pytest.mark.unoptimized
def test_results_of_a_run_have_the_coverage_of_captions_and_their_origin(corpus, tmp_path):
  new = {f"clip{i}": f"new {i}" for i in range(100)}
  edition = add_captions(corpus, [write_captions(tmp_path / "new.jsonl", new)], "")
  builder = types.SimpleNamespace(
    info=types.SimpleNamespace(full_name="video_manifest/one+captions/1.0.0"), data_dir_root=tmp_path
  )
  fields = {"data.subtitle": "description", "evaluate.selection_split": "train", "evaluate.final_splits": ("train",)}
  results = corpora.train_two_steps(builder, tmp_path / "run", **fields, **{"evaluate.protocol": "multi"})
  assert edition.is_dir() and results["corpus"]["captions"] == [HEADER]
  assert results["corpus"]["coverage"]["train"] == {"expected": 210, "found": 200, "lacking_caption": 50}
  assert results["splits"]["train"]["missing_captions"] == 50


def test_an_interrupted_edition_resumes_with_the_same_bytes(corpus, tmp_path, monkeypatch):
  captions = [write_captions(tmp_path / "new.jsonl", {f"clip{i}": f"new {i}" for i in range(200)})]
  whole = add_captions(corpus, captions, "whole")
  written, original = [], add.open_writer

  def interrupted(path):
    if len(written) == 2:
      raise KeyboardInterrupt
    written.append(path.name)
    return original(path)

  monkeypatch.setattr(add, "open_writer", interrupted)
  with pytest.raises(KeyboardInterrupt):
    add_captions(corpus, captions, "resumed")
  monkeypatch.setattr(add, "open_writer", lambda path: written.append(path.name) or original(path))
  resumed = add_captions(corpus, captions, "resumed")
  assert len(written) == len(set(written)) == 4
  assert array_records(resumed) == array_records(whole)
  assert not resumed.with_name("1.0.0.building").exists()
  before = {path.name: path.stat().st_mtime_ns for path in resumed.iterdir()}
  add_captions(corpus, captions, "resumed")  # complete
  assert {path.name: path.stat().st_mtime_ns for path in resumed.iterdir()} == before


@pytest.mark.parametrize("killed", [True, False])
def test_the_working_folder_of_a_complete_edition_is_deleted(corpus, tmp_path, monkeypatch, killed):
  """Left by a call that was killed; or created by one that waited while another wrote the edition."""
  captions = [write_captions(tmp_path / "new.jsonl", {f"clip{i}": f"new {i}" for i in range(200)})]
  building = corpus.parent.parent / "two" / "1.0.0.building"
  if killed:
    add_captions(corpus, captions, "two")
    building.mkdir()
  else:
    write = add.build_lock.locked

    def locked(folder):
      monkeypatch.setattr(add.build_lock, "locked", write)
      add_captions(corpus, captions, "two")
      return write(folder)

    monkeypatch.setattr(add.build_lock, "locked", locked)
  add_captions(corpus, captions, "two")
  assert captions_of(corpus.parent.parent / "two" / "1.0.0")["clip7"] == "new 7" and not building.exists()


def test_other_captions_start_again_and_are_refused_for_a_complete_edition(corpus, tmp_path, monkeypatch):
  first = [write_captions(tmp_path / "a.jsonl", {f"clip{i}": f"a {i}" for i in range(200)})]
  second = [write_captions(tmp_path / "b.jsonl", {f"clip{i}": f"b {i}" for i in range(200)})]
  monkeypatch.setattr(add, "_write_info", lambda *_: exec("raise KeyboardInterrupt"))
  with pytest.raises(KeyboardInterrupt):
    add_captions(corpus, first, "two")
  monkeypatch.undo()
  edition = add_captions(corpus, second, "two")
  assert captions_of(edition)["clip7"] == "b 7"
  with pytest.raises(UserError, match="was written with other captions; choose another name with --name=NAME"):
    add_captions(corpus, first, "two")


def test_bad_input_is_refused(corpus, tmp_path):
  good = [write_captions(tmp_path / "a.jsonl", {"clip0": "a"})]
  others = [write_captions(tmp_path / "b.jsonl", {"x": "a"})]
  with pytest.raises(UserError, match="its ids are like 'x', those of the corpus like 'clip"):
    add_captions(corpus, others, "two")
  with pytest.raises(UserError, match="is the corpus itself"):
    add_captions(corpus, good, "one")
  with pytest.raises(UserError, match=r"invalid configuration name '\.\./x'"):
    add_captions(corpus, good, "../x")
  with pytest.raises(UserError, match="entry 2: the clip 'clip0' has another text"):
    add_captions(corpus, [*good, write_captions(tmp_path / "c.jsonl", {"clip0": "b"})], "two")
  with pytest.raises(UserError, match="no such file"):
    add_captions(corpus, ["none.jsonl"], "two")
  with pytest.raises(UserError, match="is not on a local disk"):
    add_captions("gs://bucket/corpus", good, "two")
  assert sorted(path.name for path in corpus.parent.parent.iterdir()) == ["one"]
  file = next(corpus.glob("*.array_record-00002*"))
  file.write_bytes(file.read_bytes()[:100])
  with pytest.raises(UserError, match=r"array_record-00002 cannot be read .*; restore the file"):
    add_captions(corpus, good, "two")
