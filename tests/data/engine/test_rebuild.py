"""Rebuilding the shards of a complete corpus whose videos have changed."""

import os
import pathlib
import re
import shutil

import corpora
import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds
from etils import epath

from clipvip_jax.data.engine.corpus_config import BuildOptions
from clipvip_jax.data.engine.coverage import SKIPPED_FILE
from clipvip_jax.data.engine.rebuild import SHARDS_FILE, BuiltShards
from clipvip_jax.data.video_manifest.video_manifest_dataset_builder import Builder
from clipvip_jax.input_pipeline.corpus import Corpus
from clipvip_jax.utils.errors import UserError


def image(seed):
  return cv2.imencode(".png", np.random.default_rng(seed).integers(0, 255, (16, 16, 3), np.uint8))[1].tobytes()


def build(source, data_dir, **options):
  """Runs `build` on a new builder, as the command does, and returns a builder of the result."""
  options = BuildOptions(raw_dir=str(source), **{"clips_per_shard": 2, "max_skipped": 0.5, **options})
  arguments = {"config": "default", "data_dir": str(data_dir), "file_format": "array_record", "options": options}
  Builder(**arguments).build(tfds.download.DownloadConfig())
  return Builder(**arguments)


def records(builder):
  return {record["id"]: list(record["frames"]) for record in corpora.read_back(builder, "train")}


def files(builder):
  """Returns {file of a corpus: its number and modification time}."""
  stats = {path: pathlib.Path(path).stat() for path in builder.data_path.iterdir()}
  return {path: (stat.st_ino, stat.st_mtime_ns) for path, stat in stats.items()}


def tree(folder):
  return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != SHARDS_FILE}


@pytest.fixture
def source(tmp_path):
  """Six images in three shards: 1.png is corrupt, 2.png and 3.png are missing."""
  folder = tmp_path / "raw"
  folder.mkdir()
  for number in (0, 1, 4, 5):
    (folder / f"{number}.png").write_bytes(image(number) if number != 1 else b"<html>404</html>")
  return corpora.write_lines(folder / "m.jsonl", [{"video": f"{n}.png", "text": "t"} for n in range(6)])


@pytest.fixture
def corpus(source, tmp_path, caplog):
  caplog.set_level("INFO", "clipvip_jax")
  return build(source, tmp_path / "corpora")


def test_a_repaired_video_is_added(source, corpus, tmp_path, caplog):
  assert list(records(corpus)) == ["0.png", "4.png", "5.png"]
  (source.parent / "1.png").write_bytes(image(1))
  rebuilt = build(source, tmp_path / "corpora")
  assert "rebuilding 1 of 3 shards" in caplog.text
  assert list(records(rebuilt)) == ["0.png", "1.png", "4.png", "5.png"]
  assert rebuilt.info.metadata["coverage"]["train"]["found"] == 4
  assert "1.png" not in (rebuilt.data_path / SKIPPED_FILE).read_text()
  assert tree(rebuilt.data_path) == tree(build(source, tmp_path / "other").data_path)
  assert [path.name for path in rebuilt.data_path.parent.iterdir()] == ["1.0.0"]


def test_a_found_and_a_changed_video_are_read_again(source, corpus, tmp_path):
  (source.parent / "2.png").write_bytes(image(2))
  (source.parent / "4.png").write_bytes(image(44))
  before = records(corpus)
  rebuilt = records(build(source, tmp_path / "corpora"))
  assert list(rebuilt) == ["0.png", "2.png", "4.png", "5.png"] and rebuilt["4.png"] != before["4.png"]
  assert rebuilt == records(build(source, tmp_path / "other"))


def colour(value):
  """A JPEG, whose size is the same for many colours."""
  return cv2.imencode(".jpg", np.full((16, 16, 3), value, np.uint8))[1].tobytes()


@pytest.mark.parametrize("earlier_version", [False, True])
def test_other_pixels_of_the_same_size_change_the_identity_and_other_shards_do_not(tmp_path, earlier_version):
  (tmp_path / "raw").mkdir()
  source = corpora.write_lines(tmp_path / "raw" / "m.jsonl", [{"video": f"{n}.jpg", "text": "t"} for n in range(4)])
  for number in range(4):
    (source.parent / f"{number}.jpg").write_bytes(colour(60 + number))
  first = build(source, tmp_path / "corpora")
  identity = Corpus(first).identity()
  assert identity == Corpus(build(source, tmp_path / "other", clips_per_shard=3)).identity()
  if earlier_version:
    path = first.data_path / SHARDS_FILE
    path.write_text(re.sub(r', "records": "\w+"', "", path.read_text()))
  assert len(colour(61)) == len(colour(161))
  (source.parent / "1.jpg").write_bytes(colour(161))
  os.utime(source.parent / "1.jpg", ns=(1, 1))
  changed = Corpus(build(source, tmp_path / "corpora")).identity()
  assert changed["content"].pop("records") != identity["content"].pop("records") and changed == identity


def test_nothing_is_rebuilt_without_a_change(source, corpus, tmp_path, caplog):
  before = files(corpus)
  build(source, tmp_path / "corpora", clips_per_shard=3)
  assert "is up to date" in caplog.text
  assert files(corpus) == before


def test_removed_videos_keep_their_clips(source, corpus, tmp_path, caplog):
  (source.parent / "0.png").unlink()
  (source.parent / "1.png").write_bytes(image(1))  # of the same shard, which is kept
  build(source, tmp_path / "corpora")
  assert "videos of 1 shards no longer exist; these shards are kept" in caplog.text
  assert list(records(corpus)) == ["0.png", "4.png", "5.png"]


def test_copied_videos_are_not_read_again(source, corpus, tmp_path, caplog):
  moved = tmp_path / "moved"
  shutil.copytree(source.parent, moved)
  build(moved / "m.jsonl", tmp_path / "corpora")  # copytree keeps modification times
  for path in moved.glob("*.png"):
    os.utime(path, ns=(1, 1))
  build(moved / "m.jsonl", tmp_path / "corpora")
  assert "rebuilding" not in caplog.text and caplog.text.count("is up to date") == 2


def test_the_old_corpus_remains_if_the_new_one_is_refused(source, corpus, tmp_path):
  (source.parent / "4.png").write_bytes(b"<html>404</html>")
  with pytest.raises(UserError, match=r"4 of 6 clips were skipped .*, more than 50\.0%"):
    build(source, tmp_path / "corpora")
  assert list(records(corpus)) == ["0.png", "4.png", "5.png"]
  (source.parent / "4.png").write_bytes(image(4))
  assert list(records(build(source, tmp_path / "corpora"))) == ["0.png", "4.png", "5.png"]


@pytest.mark.parametrize("content", [None, "{", "[]", '{"clips_per_shard": 1, "reports": {"train-00000": {}}}'])
def test_a_corpus_without_reports_is_up_to_date(source, corpus, tmp_path, content):
  file = epath.Path(corpus.data_path) / SHARDS_FILE
  file.unlink() if content is None else file.write_text(content)
  assert BuiltShards.read(file) is None
  (source.parent / "1.png").write_bytes(image(1))
  assert list(records(build(source, tmp_path / "corpora"))) == ["0.png", "4.png", "5.png"]
